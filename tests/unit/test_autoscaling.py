"""How an endpoint is scaled, from its plan: the arithmetic."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capacity.autoscaling import ScheduledRate, endpoint_scaling
from capacity.measurements import SHIPPED_FOLDER, find_measurement, read_measurements
from capacity.planner import InstancePlan, plan_instances

TABLE = read_measurements(SHIPPED_FOLDER / "bert-large-g4dn.csv")


def planned(
    variant: str = "trt-db", instance_type: str = "ml.g4dn.2xlarge", safety_factor: float = 0.7
) -> InstancePlan:
    return plan_instances(
        find_measurement(TABLE, variant=variant, instance_type=instance_type),
        instance_type=instance_type,
        base_rps=40,
        peak_rps=60,
        headroom=1.4,
        safety_factor=safety_factor,
        slo_latency_ms=10_000,
        price_usd_per_hour=None,
    )


def test_the_target_is_the_measured_throughput_times_the_safety_factor() -> None:
    policy = endpoint_scaling(planned())
    assert policy.predefined_metric == "SageMakerVariantInvocationsPerInstance"
    assert policy.target == 934.5
    assert (policy.min_count, policy.max_count) == (2, 4)


def test_the_concurrency_target_is_the_same_rate_times_the_latency() -> None:
    policy = endpoint_scaling(planned(), metric="concurrency")
    assert policy.predefined_metric == "SageMakerVariantConcurrentRequestsPerModelHighResolution"
    assert policy.target == pytest.approx(1335 * 0.7 / 60 * 0.499, abs=0.005)
    assert "tracked as 7.77 requests at once = max(1, 934.5 / 60 s * 499 ms)" in policy.description


def test_less_than_one_request_at_once_is_no_target() -> None:
    assert endpoint_scaling(replace(planned(), model_latency_ms=5), metric="concurrency").target == 1


def test_a_burst_adds_what_brings_the_fleet_back_to_the_target() -> None:
    steps = endpoint_scaling(planned()).burst_steps
    assert [step.from_per_minute / 1335 for step in steps] == [1, 1.25, 1.5, 2]
    # 1.5 times the measured throughput is 1.5 / 0.7 of the target.
    assert [step.percent for step in steps] == [43, 79, 115, 186]
    assert [step.below_per_minute for step in steps] == [*(step.from_per_minute for step in steps[1:]), None]


@given(safety=st.floats(0.01, 1), burst=st.floats(1, 2.66), count=st.integers(1, 1000))
def test_after_a_burst_s_step_no_instance_is_at_more_than_four_thirds_of_its_target(
    safety: float, burst: float, count: int
) -> None:
    plan = planned(safety_factor=safety)
    rate = burst * 1335
    step = next(s for s in reversed(endpoint_scaling(plan).burst_steps) if s.from_per_minute <= rate)
    after = count * (1 + Fraction(step.percent, 100))
    assert count * rate / after <= 4 / 3 * plan.scaling_target_per_minute * (1 + 1e-9)


def test_a_safety_factor_of_one_still_adds_an_instance() -> None:
    assert endpoint_scaling(planned(safety_factor=1)).burst_steps[0].percent == 1


def test_a_rate_of_the_profile_is_a_floor_by_the_same_arithmetic_as_the_count() -> None:
    rates = [
        ScheduledRate(schedule="cron(0 7 ? * MON-FRI *)", timezone="Europe/Berlin", rps=50),
        ScheduledRate(schedule="cron(0 19 ? * MON-FRI *)", timezone="Europe/Berlin", rps=40),
    ]
    policy = endpoint_scaling(planned(), profile=rates)
    assert [(floor.schedule, floor.min_count) for floor in policy.floors] == [
        ("cron(0 7 ? * MON-FRI *)", 3),
        ("cron(0 19 ? * MON-FRI *)", 2),
    ]
    assert {floor.timezone for floor in policy.floors} == {"Europe/Berlin"}


def test_the_description_shows_the_arithmetic() -> None:
    rate = ScheduledRate(schedule="cron(0 7 ? * MON-FRI *)", timezone="Europe/Berlin", rps=50)
    assert endpoint_scaling(planned(), profile=[rate]).description.split("; ") == [
        "scale out above 934.5 invocations per minute and instance = 1335 measured * 0.7",
        "2 to 4 instances: ceil(40 requests/s * 60 / 1335 per minute and instance) to "
        "ceil(84 requests/s * 60 / 1335 per minute and instance)",
        "a minute at 1335 / 1668.75 / 2002.5 / 2670 invocations per instance or above adds 43 / 79 / 115 / 186 % of "
        "the fleet: multiples of 1335 measured, brought back to 934.5",
        "from cron(0 7 ? * MON-FRI *) Europe/Berlin at least 3: ceil(50 requests/s * 60 / 1335 per minute and "
        "instance)",
    ]
