"""What scales an endpoint, by the real engine: the seed's 24 rows, and a floor that a schedule has moved."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from pulumi_stack import PulumiError, Stack

from capacity.measurements import SHIPPED_FOLDER, Measurement, read_measurements
from localcloud.cloud import LocalCloud

ROOT = Path(__file__).parents[2]
ROWS = {
    f"{row.variant}-{row.instance_type.split('.')[-1]}": row
    for row in read_measurements(SHIPPED_FOLDER / "bert-large-g4dn.csv")
}
BASE_RPS, PEAK_RPS, HEADROOM, SAFETY = 70, 500, 1.2, 0.7
MAX_RPS = 600  # the peak times the headroom
MORNING = {"schedule": "cron(0 7 ? * MON-FRI *)", "timezone": "Europe/Berlin", "rps": 200}
EVENING = {"schedule": "cron(0 19 ? * MON-FRI *)", "timezone": "Europe/Berlin", "rps": 70}
DIMENSION = "sagemaker:variant:DesiredInstanceCount"


def settings(row: Measurement, **traffic: Any) -> dict[str, str]:
    """The configuration of a stack that serves a row's variant on its instance type, as Pulumi hands it on."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "Pulumi.local.yaml").read_text())["config"]
    config["triton-stack:model"]["variant"] = row.variant
    config["triton-stack:sagemaker"]["instance_type"] = row.instance_type
    config["triton-stack:gke"]["enabled"] = False
    config["triton-stack:slo"]["latency_ms"] = row.model_latency_ms
    config["triton-stack:traffic"] = {"base_rps": BASE_RPS, "peak_rps": PEAK_RPS, **traffic}
    config["triton-stack:capacity"] |= {"headroom": HEADROOM, "safety_factor": SAFETY}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}


@dataclass(frozen=True)
class Scaled:
    """A stack of scaled endpoints, and what the emulator says of them."""

    stack: Stack
    sagemaker: Any
    autoscaling: Any
    cloudwatch: Any

    def where(self, name: str) -> dict[str, str]:
        resource = f"endpoint/{self.stack.outputs()[name]}/variant/triton"
        return {"ServiceNamespace": "sagemaker", "ScalableDimension": DIMENSION, "ResourceId": resource}

    def target(self, name: str) -> dict[str, Any]:
        where = self.where(name)
        where["ResourceIds"] = [where.pop("ResourceId")]  # pyright: ignore[reportArgumentType] - what boto3 takes
        (target,) = self.autoscaling.describe_scalable_targets(**where)["ScalableTargets"]
        return target

    def move_floor(self, name: str, count: int) -> None:
        """What Application Auto Scaling does when a scheduled action's moment comes."""
        self.autoscaling.register_scalable_target(**self.where(name), MinCapacity=count)

    def bounds(self, name: str) -> tuple[int, int]:
        target = self.target(name)
        return target["MinCapacity"], target["MaxCapacity"]


@pytest.fixture(scope="module")
def new_scaled(cloud: LocalCloud, new_stack: Callable[..., Stack]) -> Callable[..., Scaled]:
    def make(**configs: dict[str, str]) -> Scaled:
        services = ("sagemaker", "iam", "applicationautoscaling", "cloudwatch")
        endpoints = [dict.fromkeys(services, cloud.aws_url)]
        stack = new_stack("scaling", aws__region="us-east-1", aws__endpoints=endpoints, settings=configs)
        stack.environment["PYTHONPATH"] = str(ROOT)
        stack.up()
        session: Any = boto3.Session("local", "local", region_name="us-east-1")
        names = ("sagemaker", "application-autoscaling", "cloudwatch")
        return Scaled(stack, *(session.client(each, endpoint_url=cloud.aws_url) for each in names))

    return make


@pytest.fixture(scope="module")
def rows(new_scaled: Callable[..., Scaled]) -> Scaled:
    return new_scaled(**{name: settings(row) for name, row in ROWS.items()})


@pytest.fixture(scope="module")
def live(rows: Scaled) -> dict[str, Any]:
    """All that the emulator has of the 24, by endpoint name, asked for once."""
    paginate = rows.autoscaling.get_paginator
    targets = paginate("describe_scalable_targets").paginate(ServiceNamespace="sagemaker").build_full_result()
    policies = paginate("describe_scaling_policies").paginate(ServiceNamespace="sagemaker").build_full_result()
    return {
        "outputs": rows.stack.outputs(),
        "targets": {each["ResourceId"]: each for each in targets["ScalableTargets"]},
        "policies": {(each["ResourceId"], each["PolicyType"]): each for each in policies["ScalingPolicies"]},
    }


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_seed_gives_its_count_target_and_bounds(name: str, rows: Scaled, live: dict[str, Any]) -> None:
    row, endpoint = ROWS[name], live["outputs"][name]
    described = rows.sagemaker.describe_endpoint(EndpointName=endpoint)
    config = rows.sagemaker.describe_endpoint_config(EndpointConfigName=described["EndpointConfigName"])
    (variant,) = config["ProductionVariants"]
    assert (variant["InstanceType"], variant["InitialInstanceCount"]) == (row.instance_type, row.initial_instance_count)
    assert described["ProductionVariants"][0]["DesiredInstanceCount"] == row.initial_instance_count

    resource, measured = f"endpoint/{endpoint}/variant/triton", row.max_invocations_per_minute_per_instance
    target = live["targets"][resource]
    assert target["MinCapacity"] == math.ceil(BASE_RPS * 60 / measured)
    assert target["MaxCapacity"] == math.ceil(MAX_RPS * 60 / measured)
    tracking = live["policies"][resource, "TargetTrackingScaling"]["TargetTrackingScalingPolicyConfiguration"]
    assert tracking["TargetValue"] == pytest.approx(measured * SAFETY)
    metric = tracking["PredefinedMetricSpecification"]["PredefinedMetricType"]
    assert metric == "SageMakerVariantInvocationsPerInstance"
    steps = live["policies"][resource, "StepScaling"]["StepScalingPolicyConfiguration"]["StepAdjustments"]
    assert [step["ScalingAdjustment"] for step in steps] == [43, 79, 115, 186]
    assert [step["MetricIntervalLowerBound"] for step in steps] == [measured * part for part in (0, 0.25, 0.5, 1)]


def test_a_burst_s_alarm_takes_the_steps_of_its_own_endpoint(rows: Scaled, live: dict[str, Any]) -> None:
    alarms: dict[str, Any] = {}
    for page in rows.cloudwatch.get_paginator("describe_alarms").paginate():
        for alarm in page["MetricAlarms"]:
            alarms |= {each["Value"]: alarm for each in alarm["Dimensions"] if each["Name"] == "EndpointName"}
    for name, row in ROWS.items():
        endpoint = live["outputs"][name]
        policy = live["policies"][f"endpoint/{endpoint}/variant/triton", "StepScaling"]
        assert alarms[endpoint]["AlarmActions"] == [policy["PolicyARN"]]
        assert alarms[endpoint]["Threshold"] == row.max_invocations_per_minute_per_instance


@pytest.fixture(scope="module")
def scheduled(new_scaled: Callable[..., Scaled]) -> Scaled:
    row = ROWS["trt-db-2xlarge"]
    return new_scaled(day=settings(row, profile=[MORNING, EVENING]), flat=settings(row))


def test_a_floor_that_a_schedule_has_moved_stays_and_is_no_drift(scheduled: Scaled) -> None:
    assert scheduled.bounds("day") == scheduled.bounds("flat") == (4, 27)
    actions = scheduled.autoscaling.describe_scheduled_actions(**scheduled.where("day"))["ScheduledActions"]
    floors = {each["Schedule"]: each["ScalableTargetAction"] for each in actions}
    assert floors == {MORNING["schedule"]: {"MinCapacity": 9}, EVENING["schedule"]: {"MinCapacity": 4}}

    scheduled.move_floor("day", 9)
    assert scheduled.stack.preview() == []
    scheduled.stack.pulumi("preview", "--refresh", "--expect-no-changes")
    scheduled.stack.up()
    assert scheduled.bounds("day") == (9, 27)

    # Without a schedule the same is a change that somebody made by hand, and an update takes it back.
    scheduled.move_floor("flat", 9)
    with pytest.raises(PulumiError, match="no changes were expected"):
        scheduled.stack.pulumi("preview", "--refresh", "--expect-no-changes")
    scheduled.stack.pulumi("up", "--yes", "--skip-preview", "--refresh")
    assert (scheduled.bounds("day"), scheduled.bounds("flat")) == ((9, 27), (4, 27))


def test_another_upper_bound_leaves_the_floor_of_the_hour(scheduled: Scaled) -> None:
    scheduled.move_floor("day", 9)
    row = ROWS["trt-db-2xlarge"]
    more = settings(row, profile=[MORNING, EVENING], peak_rps=600)
    scheduled.stack.configure(settings={"day": more, "flat": settings(row)})
    scheduled.stack.pulumi("up", "--yes", "--skip-preview", "--refresh")
    assert scheduled.bounds("day") == (9, 33)


def test_without_its_profile_the_floor_is_the_plan_s_again_and_nothing_is_left_of_a_destroyed_stack(
    scheduled: Scaled,
) -> None:
    row, where = ROWS["trt-db-2xlarge"], scheduled.where("day")
    scheduled.move_floor("day", 9)
    scheduled.stack.configure(settings={"day": settings(row), "flat": settings(row)})
    scheduled.stack.pulumi("up", "--yes", "--skip-preview", "--refresh")
    assert scheduled.bounds("day") == (4, 27)
    assert scheduled.autoscaling.describe_scheduled_actions(**where)["ScheduledActions"] == []
    done = scheduled.stack.pulumi("destroy", "--yes", "--skip-preview", "--json")
    gone = [json.loads(line).get("resOutputsEvent", {}).get("metadata") for line in done.splitlines()]
    order = [each["urn"].rpartition("::")[2] for each in gone if each]
    assert order.index("day-scaling-policy") < order.index("day-scaling-target") < order.index("day")
    assert scheduled.autoscaling.describe_scaling_policies(**where)["ScalingPolicies"] == []
