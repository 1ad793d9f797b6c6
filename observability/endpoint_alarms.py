"""What of a SageMaker endpoint wakes somebody: its CloudWatch alarms, from the SLO and the plan."""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from capacity.instance_types import INSTANCE_TYPES
from capacity.planner import InstancePlan
from observability.endpoint_metrics import (
    CPU,
    DISK,
    END_TO_END_LATENCY,
    ERRORS_4XX,
    ERRORS_5XX,
    GPU,
    GPU_MEMORY,
    INVOCATIONS,
    INVOCATIONS_PER_INSTANCE,
    MEMORY,
    MODEL_LATENCY,
    OVERHEAD_LATENCY,
    EndpointVariant,
    Metric,
)
from observability.slo import Slo


class Series(NamedTuple):
    """A statistic of a metric, one value a minute."""

    id: str
    """Its name in an expression, where it must begin with a small letter."""
    metric: Metric
    statistic: str


class Window(NamedTuple):
    """So many of the last so many minutes."""

    breaching_minutes: int
    minutes: int


class Missing(NamedTuple):
    """What a minute without data means."""

    treatment: Literal["notBreaching", "missing"]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """An alarm: it goes off when a series, or what an expression makes of several, is over a threshold."""

    of: EndpointVariant
    what: str
    """Few words with hyphens; no other alarm of the endpoint has them."""
    title: str
    series: tuple[Series, ...]
    expression: str | None = None
    """Metric math over the ids of the series; None: there is one series, and it is watched itself."""
    threshold: float
    """In the unit of the metric or of the expression."""
    limit: str
    """The threshold as people say it."""
    arithmetic: str
    """How the threshold came about."""
    first_step: str
    window: Window
    missing: Missing
    rollback: bool = False
    """Whether SageMaker takes a deployment back when it goes off."""

    @property
    def name(self) -> str:
        """`<endpoint>-<what>`: stable, and known before there is an endpoint."""
        return f"{self.of.endpoint}-{self.what}"

    @property
    def description(self) -> str:
        """For whom it wakes; at most 1,024 characters, which is CloudWatch's limit."""
        duration = f"in {self.window.breaching_minutes} of {self.window.minutes} minutes"
        return f"{self.title} {self.limit} {duration}. {self.arithmetic} {self.missing.reason} First: {self.first_step}"


# Soon, and not for one bad minute.
_SLO_WINDOW: Final = Window(3, 5)
# A scaler takes three minutes to decide, and an instance most of ten to start: only then is it a fault.
_CAPACITY_WINDOW: Final = Window(15, 15)

_NO_REQUEST: Final = Missing("notBreaching", "No data: no request, so OK.")
_NOT_PUBLISHED: Final = Missing("notBreaching", "No data: nobody measures it now, so OK.")
# While the endpoint is being made, and when it is gone: neither is overload.
_NO_INSTANCE: Final = Missing("missing", "No data: no instance reports, so neither OK nor alarm.")

# Of the SLO's latency, on top of it: what SageMaker and the network may take.
_OVERHEAD_SHARE: Final = 0.2
# Of requests: a client that is wrong now and then wakes nobody.
_CLIENT_ERROR_SHARE: Final = 0.05
# Of a GPU, a CPU, a memory or a disk.
_FULL_PERCENT: Final = 90


def endpoint_alarms(of: EndpointVariant, slo: Slo, plan: InstancePlan) -> tuple[Alarm, ...]:
    """Every alarm of an endpoint variant.

    Those with `rollback` are the same two whatever the arguments: the provider replaces an endpoint when that list
    changes. They watch old and new instances together, so that SageMaker takes back any deployment, a mend too, while
    one of them is in alarm: https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-configuration.html

    Args:
        of: What is watched.
        slo: What its clients may expect.
        plan: Its instances, what one was measured to sustain, and the bounds and the target of its scaler.
    """
    return (
        _model_latency(of, slo),
        _overhead_latency(of, slo),
        _end_to_end_latency(of, slo),
        _server_errors(of, slo),
        _client_errors(of),
        _invocations_per_instance(of, plan),
        *_at_maximum(of, plan),
        *_utilisations(of, plan.instance_type),
    )


def _latency(slo: Slo, metric: Metric) -> Series:
    return Series("latency", metric, f"p{slo.percentile:g}")


def _model_latency(of: EndpointVariant, slo: Slo) -> Alarm:
    latency = _latency(slo, MODEL_LATENCY)
    return Alarm(
        of=of,
        what="model-latency",
        title=f"Model latency, {latency.statistic},",
        series=(latency,),
        threshold=MODEL_LATENCY.from_ms(slo.latency_ms),
        limit=f"over {slo.latency_ms:g} ms",
        arithmetic="That is the SLO.",
        first_step="look whether requests per instance are over their target too: then more instances are needed, "
        "else the last deployment, or longer inputs, made the model slower.",
        window=_SLO_WINDOW,
        missing=_NO_REQUEST,
        rollback=True,
    )


def _overhead_latency(of: EndpointVariant, slo: Slo) -> Alarm:
    latency, limit_ms = _latency(slo, OVERHEAD_LATENCY), slo.latency_ms * _OVERHEAD_SHARE
    return Alarm(
        of=of,
        what="overhead-latency",
        title=f"Overhead of SageMaker, {latency.statistic},",
        series=(latency,),
        threshold=OVERHEAD_LATENCY.from_ms(limit_ms),
        limit=f"over {limit_ms:g} ms",
        arithmetic=f"{limit_ms:g} ms = {_OVERHEAD_SHARE:g} of the SLO's {slo.latency_ms:g} ms.",
        first_step="compare the size of requests with last week's, then look at AWS's health page.",
        window=_SLO_WINDOW,
        missing=_NO_REQUEST,
    )


def _end_to_end_latency(of: EndpointVariant, slo: Slo) -> Alarm:
    latency, limit_ms = _latency(slo, END_TO_END_LATENCY), slo.latency_ms * (1 + _OVERHEAD_SHARE)
    return Alarm(
        of=of,
        what="end-to-end-latency",
        title=f"Latency as a client sees it, {latency.statistic},",
        series=(latency,),
        threshold=END_TO_END_LATENCY.from_ms(limit_ms),
        limit=f"over {limit_ms:g} ms",
        arithmetic=f"{limit_ms:g} ms = the SLO's {slo.latency_ms:g} ms and {_OVERHEAD_SHARE:g} of it for the way.",
        first_step="see which of model and overhead latency rose with it; if neither did, it is the client's network.",
        window=_SLO_WINDOW,
        missing=_NOT_PUBLISHED,
    )


def _share_of_requests(errors: Metric) -> tuple[tuple[Series, ...], str]:
    """The series and the expression of a ratio that is 0, and not a fault, where nobody asks."""
    series = (Series("errors", errors, "Sum"), Series("requests", INVOCATIONS, "Sum"))
    return series, "IF(requests > 0, errors / requests, 0)"


def _server_errors(of: EndpointVariant, slo: Slo) -> Alarm:
    series, expression = _share_of_requests(ERRORS_5XX)
    return Alarm(
        of=of,
        what="5xx-errors",
        title="Share of requests that the endpoint fails (5XX)",
        series=series,
        expression=expression,
        threshold=slo.error_budget,
        limit=f"over {slo.error_budget * 100:g} %",
        arithmetic=f"{slo.error_budget:g} = 1 - {slo.availability:.12g}, the SLO's availability.",
        first_step=f"read the endpoint's log group, /aws/sagemaker/Endpoints/{of.endpoint}, for Triton's own message.",
        window=_SLO_WINDOW,
        missing=_NO_REQUEST,
        rollback=True,
    )


def _client_errors(of: EndpointVariant) -> Alarm:
    series, expression = _share_of_requests(ERRORS_4XX)
    return Alarm(
        of=of,
        what="4xx-errors",
        title="Share of requests that the endpoint refuses (4XX)",
        series=series,
        expression=expression,
        threshold=_CLIENT_ERROR_SHARE,
        limit=f"over {_CLIENT_ERROR_SHARE * 100:g} %",
        arithmetic="A warning: the fault is a client's, so no SLO counts it and no deployment is rolled back for it.",
        first_step="find the client that sends another name, type or shape than the model has.",
        window=_SLO_WINDOW,
        missing=_NO_REQUEST,
    )


def _invocations_per_instance(of: EndpointVariant, plan: InstancePlan) -> Alarm:
    target, measured = plan.scaling_target_per_minute, plan.max_invocations_per_minute_per_instance
    return Alarm(
        of=of,
        what="invocations-per-instance",
        title="Requests per instance and minute",
        series=(Series("requests", INVOCATIONS_PER_INSTANCE, "Sum"),),
        threshold=target,
        limit=f"over {target:g}",
        arithmetic=f"Target {target:g} = {measured} measured on {plan.instance_type} * {plan.safety_factor:g}; "
        "the scaler should have added an instance by now.",
        first_step="read the scaling activities of the endpoint: it is at its maximum, or AWS has no such instance.",
        window=_CAPACITY_WINDOW,
        missing=_NO_REQUEST,
    )


def _at_maximum(of: EndpointVariant, plan: InstancePlan) -> tuple[Alarm, ...]:
    """None where the fleet has one size only: it is always at its maximum.

    No metric says how many instances there are. A request adds 1 to the one series and 1 / instances to the other.
    """
    if plan.min_count == plan.max_count:
        return ()
    alarm = Alarm(
        of=of,
        what="at-maximum",
        title="Instances in service",
        series=(Series("requests", INVOCATIONS, "Sum"), Series("share", INVOCATIONS_PER_INSTANCE, "Sum")),
        expression="IF(share > 0, requests / share, 0)",
        # In a minute in which one is added the quotient lies between two numbers.
        threshold=plan.max_count - 0.5,
        limit=f"at their maximum of {plan.max_count}",
        arithmetic=f"The plan: {plan.min_count} to {plan.max_count}, {plan.count} at the peak; they are counted as "
        "requests / requests per instance.",
        first_step="if the traffic is real, raise triton-stack:traffic.peak_rps or capacity.headroom, and the quota.",
        window=_CAPACITY_WINDOW,
        missing=_NO_REQUEST,
    )
    return (alarm,)


def _utilisations(of: EndpointVariant, instance_type: str) -> tuple[Alarm, ...]:
    # A mean over the instances for what the load spreads, the fullest one for what fills up.
    return (
        _utilisation(of, instance_type, Series("gpu", GPU, "Average"), "compare with requests per instance."),
        _utilisation(
            of, instance_type, Series("gpu_memory", GPU_MEMORY, "Maximum"), "lower instance groups or max batch."
        ),
        _utilisation(of, instance_type, Series("cpu", CPU, "Average"), "take a type with more vCPUs for the same GPU."),
        _utilisation(of, instance_type, Series("memory", MEMORY, "Maximum"), "look for growth since the last restart."),
        _utilisation(of, instance_type, Series("disk", DISK, "Maximum"), "look at what the container writes."),
    )


def _utilisation(of: EndpointVariant, instance_type: str, series: Series, first_step: str) -> Alarm:
    metric, has = series.metric, INSTANCE_TYPES[instance_type]
    counts = {"gpus": (has.gpus, "GPUs"), "vcpus": (has.vcpus, "vCPUs"), None: (1, "")}
    count, unit = counts[metric.summed_over]
    summed = f", for the metric is a sum over {unit} and an instance has {count}" if metric.summed_over else ""
    return Alarm(
        of=of,
        what=series.id.replace("_", "-"),
        title=f"{series.statistic} {metric.name} of {instance_type}",
        series=(series,),
        threshold=_FULL_PERCENT * count,
        limit=f"over {_FULL_PERCENT} %",
        arithmetic=f"{_FULL_PERCENT * count} of {100 * count}{summed}.",
        first_step=first_step,
        window=_CAPACITY_WINDOW,
        missing=_NO_INSTANCE,
    )
