"""How many instances a traffic needs, by arithmetic on what was measured."""

import math
from dataclasses import dataclass
from fractions import Fraction

from capacity.measurements import Measurement

SECONDS_PER_MINUTE = 60


class PlanError(ValueError):
    """No plan holds what was asked; the text says what to relax."""


@dataclass(frozen=True)
class InstancePlan:
    """Instances of one type that carry a traffic, and the bounds within which they are scaled."""

    variant: str
    instance_type: str
    """SageMaker instance type, or Compute Engine machine type with one T4."""
    max_invocations_per_minute_per_instance: int
    """What one instance was measured to sustain."""
    model_latency_ms: float
    """Model latency that was measured at that throughput."""
    safety_factor: float
    """Share of the measured throughput at which the scaler acts."""
    base_rps: float
    """Requests per second that `min_count` carries."""
    max_rps: float
    """Requests per second that `max_count` carries: the peak times the headroom."""
    min_count: int
    """Instances that carry the base traffic; the scaler never goes below."""
    count: int
    """Instances that carry the peak: the recommended initial count."""
    max_count: int
    """Instances that carry the peak times the headroom; the scaler never goes above."""
    scaling_target_per_minute: float
    """Invocations per minute and instance at which the scaler adds one."""
    price_usd_per_hour: float | None
    """Price of one instance; None, as the costs below, where the price of the type in the region is not known."""
    min_cost_usd_per_hour: float | None
    """Price of `min_count` instances."""
    cost_usd_per_hour: float | None
    """Price of `count` instances."""
    max_cost_usd_per_hour: float | None
    """Price of `max_count` instances."""
    formula: str
    """The arithmetic behind `count`, for a reader of the preview."""


def instance_count(requests_per_second: float, max_invocations_per_minute_per_instance: int) -> int:
    """Instances that carry a request rate: ``ceil(rps * 60 / invocations per minute and instance)``, at least 1.

    The footnote of the measured table: the count that sustains the throughput under the latency. Computed in
    fractions, so that a rate which fills its instances exactly does not gain one by rounding.
    """
    per_minute = Fraction(str(requests_per_second)) * SECONDS_PER_MINUTE
    return max(1, math.ceil(per_minute / max_invocations_per_minute_per_instance))


def count_formula(requests_per_second: float, max_invocations_per_minute_per_instance: int) -> str:
    """The arithmetic of `instance_count`, for a reader of the preview."""
    per_instance = f"{max_invocations_per_minute_per_instance} per minute and instance"
    return f"ceil({requests_per_second:g} requests/s * {SECONDS_PER_MINUTE} / {per_instance})"


def plan_instances(
    measurement: Measurement,
    *,
    instance_type: str,
    base_rps: float,
    peak_rps: float,
    headroom: float,
    safety_factor: float,
    slo_latency_ms: float,
    price_usd_per_hour: float | None,
) -> InstancePlan:
    """Plan the fleet of one target.

    Args:
        measurement: What one instance sustains.
        instance_type: Name of the type to buy: the measured one, or its equivalent on the other cloud.
        base_rps: Lowest expected requests per second, over 0.
        peak_rps: Highest expected requests per second, at least `base_rps`.
        headroom: Factor over the peak up to which the fleet may grow, at least 1.
        safety_factor: Share of the measured throughput at which the scaler acts, over 0 and at most 1: the rest is
            what an instance takes while the next one starts. `SageMakerVariantInvocationsPerInstance = MAX_RPS *
            SAFETY_FACTOR * 60`, https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-scaling-loadtest.html
        slo_latency_ms: Latency that the measurement must hold.
        price_usd_per_hour: Price of one instance, None where it is not known.

    Raises:
        PlanError: The measured latency is over `slo_latency_ms`.
    """
    if measurement.model_latency_ms > slo_latency_ms:
        raise PlanError(
            f'"{measurement.variant}" on {measurement.instance_type} takes {measurement.model_latency_ms:g} ms at its '
            f"measured throughput, over the {slo_latency_ms:g} ms of triton-stack:slo.latency_ms"
        )
    per_instance = measurement.max_invocations_per_minute_per_instance
    max_rps = float(Fraction(str(peak_rps)) * Fraction(str(headroom)))
    counts = [instance_count(rps, per_instance) for rps in (base_rps, peak_rps, max_rps)]
    costs = [None if price_usd_per_hour is None else round(count * price_usd_per_hour, 4) for count in counts]
    return InstancePlan(
        variant=measurement.variant,
        instance_type=instance_type,
        max_invocations_per_minute_per_instance=per_instance,
        model_latency_ms=measurement.model_latency_ms,
        safety_factor=safety_factor,
        base_rps=base_rps,
        max_rps=max_rps,
        min_count=counts[0],
        count=counts[1],
        max_count=counts[2],
        scaling_target_per_minute=float(per_instance * Fraction(str(safety_factor))),
        price_usd_per_hour=price_usd_per_hour,
        min_cost_usd_per_hour=costs[0],
        cost_usd_per_hour=costs[1],
        max_cost_usd_per_hour=costs[2],
        formula=f"{count_formula(peak_rps, per_instance)} = {counts[1]}",
    )
