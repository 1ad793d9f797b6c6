"""How an endpoint follows its traffic, by arithmetic on what was measured."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from typing import Annotated, Final, Literal
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, field_validator

from capacity.planner import SECONDS_PER_MINUTE, InstancePlan, count_formula, instance_count

ScalingMetric = Literal["invocations", "concurrency"]

# https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-add-code-define.html
_PREDEFINED_METRICS: Final[dict[ScalingMetric, str]] = {
    "invocations": "SageMakerVariantInvocationsPerInstance",
    "concurrency": "SageMakerVariantConcurrentRequestsPerModelHighResolution",
}

# AWS's default. After it the fleet may shrink again: it goes down in steps of at least five minutes.
_SCALE_IN_COOLDOWN_S: Final = 300

# AWS's default is 300. A cooldown begins when a scale-out has succeeded, that is when its instances are in service:
# one period of the metric with them in it is enough to decide again.
# https://docs.aws.amazon.com/autoscaling/application/userguide/target-tracking-scaling-policy-overview.html
_SCALE_OUT_COOLDOWN_S: Final = 60

# Where the steps of a burst begin, in multiples of the measured throughput. Each is sized for its beginning, so that
# the worst of it, just below the next, leaves 4/3 of the target at most; target tracking adds the rest.
_BURSTS: Final = (Fraction(1), Fraction(5, 4), Fraction(3, 2), Fraction(2))


class ScheduledRate(BaseModel):
    """A request rate that is expected from a moment on that comes again and again."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    schedule: Annotated[str, Field(examples=["cron(0 7 ? * MON-FRI *)"])]
    """`cron(<minute> <hour> <day of month> <month> <day of week> <year>)`, one of the two days `?`, as of
    https://docs.aws.amazon.com/autoscaling/application/userguide/scheduled-scaling-using-cron-expressions.html"""
    timezone: Annotated[str, Field(examples=["Europe/Berlin"])]
    """IANA name of the time zone of `schedule`."""
    rps: Annotated[float, Field(gt=0, examples=[200])]
    """Requests per second."""

    @field_validator("schedule")
    @classmethod
    def _cron(cls, value: str) -> str:
        days = re.fullmatch(r"cron\([^ ?]+ [^ ?]+ ([^ ]+) [^ ?]+ ([^ ]+) [^ ?]+\)", value)
        if not days or days.groups().count("?") != 1:
            raise ValueError(
                "is not cron(<minute> <hour> <day of month> <month> <day of week> <year>) with ? for one of the days; "
                "write e.g. cron(0 7 ? * MON-FRI *)"
            )
        return value

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("is not an IANA time zone; write e.g. Europe/Berlin or Etc/UTC")
        return value


@dataclass(frozen=True)
class BurstStep:
    """What a minute of too much traffic adds to the fleet."""

    from_per_minute: float
    """Invocations per minute and instance from which it is taken."""
    below_per_minute: float | None
    """Where the next one begins; None: there is none."""
    percent: int
    """Share of the fleet that is added, at least one instance."""


@dataclass(frozen=True)
class ScheduledFloor:
    """A moment from which the fleet has a least count of its own."""

    schedule: str
    timezone: str
    min_count: int


@dataclass(frozen=True)
class EndpointScalingPolicy:
    """All that scales an endpoint's production variant."""

    min_count: int
    max_count: int
    predefined_metric: str
    """Name by which Application Auto Scaling knows the tracked metric."""
    target: float
    """Value of that metric, per instance, at which the scaler keeps the fleet."""
    scale_in_cooldown_s: int
    scale_out_cooldown_s: int
    burst_steps: tuple[BurstStep, ...]
    """In order; the first begins where a burst does."""
    burst_description: str
    """The arithmetic of the steps in words."""
    floors: tuple[ScheduledFloor, ...]
    description: str
    """All of the arithmetic in words, for a reader of the preview."""


def endpoint_scaling(
    plan: InstancePlan, *, metric: ScalingMetric = "invocations", profile: Iterable[ScheduledRate] = ()
) -> EndpointScalingPolicy:
    """Derive how an endpoint is scaled from what its plan rests on.

    Three things move the fleet between the plan's bounds; where they disagree, the largest count wins
    (https://docs.aws.amazon.com/autoscaling/application/APIReference/API_PutScalingPolicy.html):

    - Target tracking keeps each instance at a share of what it was measured to sustain. Its alarm waits for three
      minutes of too much (https://repost.aws/questions/QUf450Wsd9RROGGOIwaolN9w/sagemaker-autoscaling-delay).
    - Burst steps do not wait: one minute at the measured throughput or above, from which on the measured latency no
      longer holds, adds the share of the fleet that brings it back to the target.
    - Floors of a traffic profile have the instances there before their traffic.

    Args:
        plan: The instances and their measurement.
        metric: What is tracked. `invocations`: per minute and instance, `MAX_RPS * SAFETY_FACTOR * 60` of
            https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-scaling-loadtest.html. `concurrency`: requests
            that an instance works on at once, by Little's law the same rate times the measured latency; it is
            published every 10 seconds instead of every minute, without any setting of the endpoint's.
        profile: Request rates by schedule.
    """
    measured, invocations = plan.max_invocations_per_minute_per_instance, plan.scaling_target_per_minute
    target, tracked = invocations, ""
    if metric == "concurrency":
        target = _concurrency(invocations, plan.model_latency_ms)
        tracked = f", tracked as {target:g} requests at once = max(1, {invocations:g} / 60 s * "
        tracked += f"{plan.model_latency_ms:g} ms)"
    steps = _burst_steps(plan)
    floors = [(rate, instance_count(rate.rps, measured)) for rate in profile]
    burst = f"a minute at {_slashed(step.from_per_minute for step in steps)} invocations per instance or above adds "
    burst += f"{_slashed(step.percent for step in steps)} % of the fleet: multiples of {measured} measured, brought "
    burst += f"back to {invocations:g}"
    return EndpointScalingPolicy(
        min_count=plan.min_count,
        max_count=plan.max_count,
        predefined_metric=_PREDEFINED_METRICS[metric],
        target=target,
        scale_in_cooldown_s=_SCALE_IN_COOLDOWN_S,
        scale_out_cooldown_s=_SCALE_OUT_COOLDOWN_S,
        burst_steps=steps,
        burst_description=burst,
        floors=tuple(ScheduledFloor(rate.schedule, rate.timezone, count) for rate, count in floors),
        description="; ".join(
            (
                f"scale out above {invocations:g} invocations per minute and instance = {measured} measured * "
                f"{plan.safety_factor:g}{tracked}",
                f"{plan.min_count} to {plan.max_count} instances: {count_formula(plan.base_rps, measured)} to "
                f"{count_formula(plan.max_rps, measured)}",
                burst,
                *(
                    f"from {rate.schedule} {rate.timezone} at least {count}: {count_formula(rate.rps, measured)}"
                    for rate, count in floors
                ),
            )
        ),
    )


def _slashed(values: Iterable[float]) -> str:
    return " / ".join(f"{value:.15g}" for value in values)


def _concurrency(invocations_per_minute: float, latency_ms: float) -> float:
    """Requests that are in an instance at once, by Little's law; below one there is nothing to count."""
    per_second = Fraction(str(invocations_per_minute)) / SECONDS_PER_MINUTE
    return max(1.0, round(float(per_second * Fraction(str(latency_ms)) / 1000), 2))


def _burst_steps(plan: InstancePlan) -> tuple[BurstStep, ...]:
    """Shares that bring a fleet from a multiple of its measured throughput back to the target.

    With n instances at k times the measured throughput, n * k / safety_factor are at the target: k / safety_factor - 1
    of the fleet is added. At a safety factor of 1 the first share would be none: it is 1 %, that is one instance.
    """
    measured, safety = plan.max_invocations_per_minute_per_instance, Fraction(str(plan.safety_factor))
    return tuple(
        BurstStep(
            from_per_minute=float(start * measured),
            below_per_minute=None if end is None else float(end * measured),
            percent=max(1, math.ceil(100 * (start / safety - 1))),
        )
        for start, end in zip_longest(_BURSTS, _BURSTS[1:])
    )
