"""How an endpoint is updated: the size of the new fleet, and the time and the steps that it is given."""

import pytest

from components.aws.deployment import STEP_PERCENT, Deployment, DeploymentError, start_timeouts_s
from components.aws.fleet_size import PlannedFleet, starting_count

PLAN = PlannedFleet(min_count=4, count=23, max_invocations_per_minute_per_instance=1335)


@pytest.mark.parametrize(
    ("live", "before", "starts_with"),
    [
        (None, None, 23),  # no fleet yet: the plan's count
        (17, PLAN, 17),
        (40, PLAN, 40),  # autoscaling knows better than the plan
        (1, PLAN, 4),  # never below the plan's minimum
        (17, None, 17),  # made by something else
        (17, PlannedFleet(1, 1, 2670), 34),  # half as fast as the old type: twice as many
        (17, PlannedFleet(1, 1, 1336), 18),  # a little slower: rounded up
    ],
)
def test_a_new_fleet_carries_what_the_live_one_carries(
    live: int | None, before: PlannedFleet | None, starts_with: int
) -> None:
    assert starting_count(PLAN, live, before) == starts_with


@pytest.mark.parametrize(
    ("size_bytes", "expected"), [(0, (300, 300)), (1_340_000_000, (360, 360)), (10**12, (3600, 3600))]
)
def test_a_larger_model_gets_more_time_in_whole_minutes_up_to_sagemaker_s_hour(
    size_bytes: int, expected: tuple[int, int]
) -> None:
    assert start_timeouts_s(size_bytes) == expected


@pytest.mark.parametrize(
    ("deployment", "start_s", "seconds"),
    [
        (Deployment("all-at-once", wait_s=0), 600, 1320),  # 600 to provision, 600 to start, 120 until the old ones go
        (Deployment("all-at-once", wait_s=300), 660, 1680),
        (Deployment("canary", wait_s=300, step_percent=10), 600, 1920),  # the canary's wait, and all the rest's
        (Deployment("linear", wait_s=60, step_percent=30), 600, 1560),  # four steps
        (Deployment("rolling", wait_s=60, step_percent=50), 600, 2640),  # each half is provisioned by itself
    ],
)
def test_the_timeout_fits_every_start_and_every_wait(deployment: Deployment, start_s: int, seconds: int) -> None:
    assert deployment.timeout_s(start_s) == seconds


def test_what_cannot_end_in_time_is_refused_with_what_to_write() -> None:
    slow = Deployment("rolling", wait_s=3600, step_percent=5)
    with pytest.raises(DeploymentError, match=r"rolling in 20 steps .* over the 14400 s .* larger step_percent"):
        slow.timeout_s(600)


@pytest.mark.parametrize("strategy", STEP_PERCENT)
def test_a_part_of_one_instance_is_refused(strategy: str) -> None:
    deployment = Deployment(strategy, wait_s=0, step_percent=10)  # pyright: ignore[reportArgumentType] - a strategy
    with pytest.raises(DeploymentError, match="of 1 instance only; write all-at-once"):
        deployment.check(1, variants=1)
    deployment.check(2, variants=1)


def test_several_variants_do_not_roll() -> None:
    Deployment("canary", wait_s=0, step_percent=10).check(2, variants=2)
    with pytest.raises(DeploymentError, match=r"rolling.* takes one variant, and there are 2"):
        Deployment("rolling", wait_s=0, step_percent=10).check(2, variants=2)


def test_each_strategy_has_the_policy_of_its_own() -> None:
    canary = Deployment("canary", wait_s=300, step_percent=10).policy(600)
    assert canary == {
        "blue_green_update_policy": {
            "traffic_routing_configuration": {
                "type": "CANARY",
                "wait_interval_in_seconds": 300,
                "canary_size": {"type": "CAPACITY_PERCENT", "value": 10},
            },
            "termination_wait_in_seconds": 120,
            "maximum_execution_timeout_in_seconds": 1920,
        }
    }
    linear = Deployment("linear", wait_s=60, step_percent=20).policy(600)
    assert "linear_step_size" in str(linear)
    assert "canary_size" not in str(linear)
    assert "_size" not in str(Deployment("all-at-once", wait_s=60).policy(600))
    rolling = Deployment("rolling", wait_s=60, step_percent=50).policy(600)
    assert list(rolling) == ["rolling_update_policy"]
