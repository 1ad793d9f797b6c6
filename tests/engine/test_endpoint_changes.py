"""An endpoint under change: the whole program on its SageMaker target alone, by the real engine."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pulumi_stack import PulumiError
from whole_program import Program, write_stack_file

from delivery.stack import PROJECT_FOLDER, Stack
from localcloud.cloud import LocalCloud
from stacks.fleet import plan_fleet
from stacks.settings import read_stack_file

STACK = "triton-change"
KEY = "arn:aws:kms:us-east-1:111122223333:key/0a1b2c3d-0000-4000-8000-000000000000"


def digest(letter: str) -> str:
    return letter * 64


@pytest.fixture(scope="module")
def program(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Prod's settings without GKE, and all that a SageMaker endpoint may have."""
    folder = tmp_path_factory.mktemp("change")
    file = folder / "Pulumi.change.yaml"
    settings: dict[str, Any] = yaml.safe_load((PROJECT_FOLDER / "Pulumi.prod.yaml").read_text())["config"]
    settings["triton-stack:gke"]["enabled"] = False
    settings["triton-stack:model"]["digest"] = digest("a")
    settings["triton-stack:traffic"]["base_rps"] = 100  # two of the largest instances that are tried
    settings["triton-stack:traffic"]["profile"] = [
        {"schedule": "cron(0 7 ? * MON-FRI *)", "timezone": "Europe/Berlin", "rps": 200}
    ]
    settings["triton-stack:sagemaker"] |= {
        "kms_key_arn": KEY,
        "vpc": {"subnet_ids": ["subnet-0abc"], "security_group_ids": ["sg-0abc"]},
        "capture": {"percent": 10},
        "challenger": {"digest": digest("b"), "mode": "shadow", "percent": 5},
        "alarm_topic_arn": "arn:aws:sns:us-east-1:123456789012:on-call",
    }
    write_stack_file(file, cloud, settings)
    environment = cloud.environment() | {"PULUMI_BACKEND_URL": folder.as_uri()}
    program = Program("change", file, cloud, {}, environment)
    Stack(program.name, os.environ | environment, file).initialise()
    program.up()
    yield program
    program.pulumi("destroy", "--yes", "--skip-preview", f"--config-file={file}")


def endpoint(program: Program) -> dict[str, Any]:
    return program.aws("sagemaker").describe_endpoint(EndpointName=STACK)


def served(program: Program) -> dict[str, Any]:
    """The endpoint configuration that is served."""
    name = endpoint(program)["EndpointConfigName"]
    return program.aws("sagemaker").describe_endpoint_config(EndpointConfigName=name)


def served_digest(program: Program) -> str:
    (variant,) = served(program)["ProductionVariants"]
    model = program.aws("sagemaker").describe_model(ModelName=variant["ModelName"])
    uri: str = model["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]["S3Uri"]
    return uri.split("/")[-2]


def move_count(program: Program, count: int) -> None:
    """Do as autoscaling does."""
    program.aws("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName=STACK, DesiredWeightsAndCapacities=[{"VariantName": "triton", "DesiredInstanceCount": count}]
    )


def test_all_of_the_settings_are_seen_in_the_endpoint(program: Program) -> None:
    described, config = endpoint(program), served(program)
    plan = plan_fleet(read_stack_file(program.file)).sagemaker
    assert plan
    (variant,) = config["ProductionVariants"]
    assert variant["InitialInstanceCount"] == program.now_count() == plan.count
    assert variant["RoutingConfig"] == {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"}
    assert "KmsKeyId" not in config  # SageMaker refuses one for the local disks of a g4dn
    (shadow,) = config["ShadowProductionVariants"]
    assert (shadow["VariantName"], shadow["InitialVariantWeight"]) == ("challenger", 0.05)
    capture = config["DataCaptureConfig"]
    assert capture["DestinationS3Uri"].endswith(f"/captured/{STACK}")
    assert (capture["InitialSamplingPercentage"], capture["KmsKeyId"]) == (10, KEY)
    policy = described["LastDeploymentConfig"]
    routing = policy["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert routing["CanarySize"] == {"Type": "CAPACITY_PERCENT", "Value": 10}
    assert len(policy["AutoRollbackConfiguration"]["Alarms"]) == 2


@pytest.mark.parametrize("look", [(), ("--refresh",)], ids=["offline", "looking at the cloud"])
def test_an_unchanged_program_previews_unchanged(program: Program, look: tuple[str, ...]) -> None:
    program.pulumi("preview", *look, "--diff", "--expect-no-changes", f"--config-file={program.file}")


def test_autoscaling_s_count_stays_and_a_new_digest_starts_with_it(program: Program) -> None:
    move_count(program, 17)
    assert program.up() == []
    assert program.now_count() == 17
    before = program.resources()
    program.configure("model", digest=digest("c"))
    done = program.up()
    assert (served_digest(program), program.now_count()) == (digest("c"), 17)
    for replaced in (f"{STACK}-model", f"{STACK}-configuration"):
        order = [("create-replacement", replaced), ("update", STACK), ("delete-replaced", replaced)]
        assert sorted(order, key=done.index) == order
    assert program.resources()[STACK]["id"] == before[STACK]["id"]


def test_a_fleet_below_the_plan_s_minimum_starts_at_the_minimum(program: Program) -> None:
    plan = plan_fleet(read_stack_file(program.file)).sagemaker
    assert plan
    assert plan.min_count > 1
    move_count(program, 1)
    program.configure("model", digest=digest("d"))
    program.up()
    assert program.now_count() == plan.min_count


def test_more_traffic_moves_the_scaler_s_bounds_and_not_the_fleet(program: Program) -> None:
    before, count = endpoint(program)["EndpointConfigName"], program.now_count()
    program.configure("traffic", peak_rps=600)
    done = [name for _, name in program.up()]
    assert f"{STACK}-scaling-target" in done
    assert not {STACK, f"{STACK}-configuration", f"{STACK}-fleet"} & set(done)
    assert (endpoint(program)["EndpointConfigName"], program.now_count()) == (before, count)


def test_a_rolled_back_update_fails_keeps_what_serves_and_is_continued_by_the_next(program: Program) -> None:
    old, old_digest = program.resources(), served_digest(program)
    cloudwatch, sagemaker = program.aws("cloudwatch"), program.aws("sagemaker")
    (alarm, *_) = endpoint(program)["LastDeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    program.configure("model", digest=digest("e"))
    cloudwatch.set_alarm_state(AlarmName=alarm["AlarmName"], StateValue="ALARM", StateReason="too slow")
    for _ in range(2):
        with pytest.raises(PulumiError) as caught:
            program.up()
        said = str(caught.value)
        assert f"the endpoint {STACK} was rolled back and still serves" in said
        assert alarm["AlarmName"] in said
        assert "Traceback" not in said
        assert served_digest(program) == old_digest
        for kept in (f"{STACK}-configuration", f"{STACK}-model"):
            assert old[kept]["id"] in named(sagemaker)
    cloudwatch.set_alarm_state(AlarmName=alarm["AlarmName"], StateValue="OK", StateReason="fast again")
    program.up()
    assert served_digest(program) == digest("e")
    assert not {old[f"{STACK}-configuration"]["id"], old[f"{STACK}-model"]["id"]} & named(sagemaker)
    assert program.up() == []


def named(sagemaker: Any) -> set[str]:
    configurations = {each["EndpointConfigName"] for each in sagemaker.list_endpoint_configs()["EndpointConfigs"]}
    return configurations | {each["ModelName"] for each in sagemaker.list_models()["Models"]}


def test_another_instance_type_previews_a_new_configuration_an_update_in_place_and_both_costs(program: Program) -> None:
    before = program.outputs()["sagemaker"]["plan"]["cost_usd_per_hour"]
    program.configure("sagemaker", instance_type="ml.g4dn.12xlarge")
    said = program.pulumi("preview", "--json", f"--config-file={program.file}")
    steps = {step["urn"].rpartition("::")[2]: step["op"] for step in json.loads(said)["steps"]}
    assert (steps[f"{STACK}-configuration"], steps[STACK]) == ("replace", "update")
    assert "delete" not in steps.values()
    plan = plan_fleet(read_stack_file(program.file)).sagemaker
    assert plan
    shown = program.pulumi("preview", "--diff", f"--config-file={program.file}")
    assert re.search(rf"~ cost_usd_per_hour\s*: {before} => {plan.cost_usd_per_hour}\b", shown), shown
    live = program.now_count()
    program.up()
    # As many of the new type as carry what the live ones carry.
    assert plan.min_count <= program.now_count() < live


def test_another_tag_does_not_touch_the_fleet(program: Program) -> None:
    before = endpoint(program)
    content = yaml.safe_load(program.file.read_text())
    content["config"]["aws:defaultTags"] = {"tags": {"team": "serving"}}
    program.file.write_text(yaml.safe_dump(content))
    done = program.up()
    assert ("update", STACK) in done
    assert {operation for operation, _ in done} == {"update"}
    after = endpoint(program)
    assert after == {**before, "ResponseMetadata": after["ResponseMetadata"]}
    tags = program.aws("sagemaker").list_tags(ResourceArn=after["EndpointArn"])["Tags"]
    assert tags == [{"Key": "team", "Value": "serving"}]


def test_an_endpoint_that_was_deleted_by_hand_is_back_after_refresh_and_up(program: Program) -> None:
    config = endpoint(program)["EndpointConfigName"]
    program.aws("sagemaker").delete_endpoint(EndpointName=STACK)
    program.pulumi("refresh", "--yes", "--skip-preview", f"--config-file={program.file}")
    done = program.up()
    assert ("create", STACK) in done
    assert endpoint(program)["EndpointConfigName"] == config
    assert program.scalable_target()["ResourceId"] == f"endpoint/{STACK}/variant/triton"
    assert program.up() == []


def test_destroy_deregisters_scaling_first_and_keeps_the_store_alone(program: Program) -> None:
    bucket = program.outputs()["sagemaker"]["model_uri"].split("/")[2]
    program.aws("s3").put_object(Bucket=bucket, Key=f"captured/{STACK}/one.jsonl", Body=b"{}")
    said = program.pulumi("destroy", "--yes", "--skip-preview", "--json", f"--config-file={program.file}")
    events = [json.loads(line).get("resOutputsEvent", {}).get("metadata") for line in said.splitlines()]
    deleted = [each["urn"].rpartition("::")[2] for each in events if each and each["op"] == "delete"]
    order = [f"{STACK}-scaling-policy", f"{STACK}-scaling-target", STACK, f"{STACK}-configuration", f"{STACK}-model"]
    assert sorted(order, key=deleted.index) == order
    assert program.resources() == {}
    s3 = program.aws("s3")
    assert s3.get_object(Bucket=bucket, Key=f"captured/{STACK}/one.jsonl")["Body"].read() == b"{}"
    assert left_behind(program) == []


def left_behind(program: Program) -> list[str]:
    """Names of what is left of the stack in any service that it uses but S3."""
    sagemaker, cloudwatch = program.aws("sagemaker"), program.aws("cloudwatch")
    names = [*named(sagemaker), *(each["EndpointName"] for each in sagemaker.list_endpoints()["Endpoints"])]
    names += [
        each["ModelPackageGroupName"] for each in sagemaker.list_model_package_groups()["ModelPackageGroupSummaryList"]
    ]
    names += [each["RoleName"] for each in program.aws("iam").list_roles()["Roles"]]
    names += [each["AlarmName"] for each in cloudwatch.describe_alarms()["MetricAlarms"]]
    names += [each["DashboardName"] for each in cloudwatch.list_dashboards()["DashboardEntries"]]
    scaling, of = program.aws("application-autoscaling"), {"ServiceNamespace": "sagemaker"}
    names += [each["ResourceId"] for each in scaling.describe_scalable_targets(**of)["ScalableTargets"]]
    names += [each["ResourceId"] for each in scaling.describe_scaling_policies(**of)["ScalingPolicies"]]
    names += [each["ResourceId"] for each in scaling.describe_scheduled_actions(**of)["ScheduledActions"]]
    return [name for name in names if STACK in name]
