"""The whole program as dev and prod: the real engine, the stand-ins, and a control plane for each region's cluster."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from whole_program import Program, write_stack_file

from cli import stack as stack_command
from delivery.stack import PROJECT_FOLDER, Stack
from localcloud.cloud import LocalCloud, Ports
from localcloud.control_plane import ControlPlane
from localcloud.toolchain import find_or_build
from stacks.fleet import plan_fleet
from stacks.settings import read_stack_file

DIGEST = "0123456789abcdef" * 4
SECRET = "opensesame"


def silent(_: str) -> None:
    """Read no report."""


@pytest.fixture(scope="module")
def clusters(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Region → kubeconfig of its cluster; both clusters take the local cloud's certificates."""
    ports = Ports.free()
    second = ControlPlane(
        tmp_path_factory.mktemp("europe"),
        find_or_build(silent),
        port=ports.kubernetes,
        etcd_port=ports.etcd,
        etcd_peer_port=ports.etcd_peer,
        t4_nodes=2,
        authority=cloud.state / "keys",
    )
    try:
        second.up(silent)
        yield {"us-central1": str(cloud.state / "kubeconfig"), "europe-west4": str(second.kubeconfig)}
    finally:
        second.down()


@pytest.fixture(scope="module", params=["dev", "prod"])
def program(
    request: pytest.FixtureRequest,
    cloud: LocalCloud,
    clusters: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Program]:
    """A deployed stack: its stack file, with the provider settings of the local one."""
    folder = tmp_path_factory.mktemp(request.param)
    file = folder / f"Pulumi.{request.param}.yaml"
    write_stack_file(file, cloud, yaml.safe_load((PROJECT_FOLDER / file.name).read_text())["config"])
    environment = cloud.environment() | {
        "PULUMI_BACKEND_URL": folder.as_uri(),
        "TRITON_STACK_CLUSTERS": json.dumps(clusters),
    }
    program = Program(request.param, file, cloud, clusters, environment)
    Stack(program.name, os.environ | environment, file).initialise()
    program.pulumi("config", "set", "--secret", "aws:secretKey", SECRET, f"--config-file={file}")
    program.up()
    yield program
    program.pulumi("destroy", "--yes", "--skip-preview", f"--config-file={file}")


def test_outputs_say_what_is_served_where_and_on_how_many(program: Program) -> None:
    outputs, settings = program.outputs(), read_stack_file(program.file)
    fleet = plan_fleet(settings)
    assert fleet.sagemaker
    assert outputs["sagemaker"]["plan"] == asdict(fleet.sagemaker)
    assert [each["region"] for each in outputs["gke"]] == settings.gke.regions
    assert {each["digest"] for each in [outputs["sagemaker"], *outputs["gke"]]} == {settings.model.digest}
    sagemaker = program.aws("sagemaker")
    endpoint = sagemaker.describe_endpoint(EndpointName=outputs["sagemaker"]["endpoint"])
    assert endpoint["EndpointStatus"] == "InService"
    assert program.now_count() == fleet.sagemaker.count
    assert program.scalable_target()["MaxCapacity"] == fleet.sagemaker.max_count
    for cluster in outputs["gke"]:
        plan = fleet.gke[cluster["region"]]
        assert cluster["plan"] == asdict(plan)
        assert (cluster["http"], cluster["grpc"]) == ("http://127.0.0.1:8000", "127.0.0.1:8001")
        autoscaler = program.object(cluster["region"], "hpa")["spec"]
        assert (autoscaler["minReplicas"], autoscaler["maxReplicas"]) == (plan.min_count, plan.max_count)


def test_no_secret_is_in_the_state_or_the_outputs(program: Program) -> None:
    backend = [path for path in program.file.parent.rglob(".pulumi/**/*") if path.is_file()]
    assert backend
    for path in [*backend, program.file]:
        assert SECRET.encode() not in path.read_bytes()
        assert b"PRIVATE KEY" not in path.read_bytes()
    assert "client-key-data" not in json.dumps(program.outputs())


def test_a_second_update_changes_nothing_and_leaves_the_counts_that_autoscaling_moved(program: Program) -> None:
    moved = program.now_count() + 1
    program.aws("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName=program.outputs()["sagemaker"]["endpoint"],
        DesiredWeightsAndCapacities=[{"VariantName": "triton", "DesiredInstanceCount": moved}],
    )
    regions = [each["region"] for each in program.outputs()["gke"]]
    for region in regions:
        program.kubectl(region, "scale", "deployment", "triton", "--replicas=2")
        program.kubectl(region, "rollout", "status", "deployment", "triton", "--timeout=30s")
    assert program.up() == []
    assert program.now_count() == moved
    assert [program.object(region, "deployment")["status"]["readyReplicas"] for region in regions] == [2] * len(regions)


def test_a_preview_that_looks_at_the_clouds_expects_no_change(program: Program) -> None:
    program.pulumi("preview", "--refresh", "--diff", "--expect-no-changes", f"--config-file={program.file}")


def test_refresh_finds_what_was_changed_behind_its_back_and_new_settings_come_with_what_mends_it(
    program: Program,
) -> None:
    stack, before, outputs = f"triton-{program.name}", program.resources(), program.outputs()
    region = outputs["gke"][0]["region"]
    resource_id = program.scalable_target()["ResourceId"]
    program.aws("application-autoscaling").register_scalable_target(
        ServiceNamespace="sagemaker",
        ScalableDimension="sagemaker:variant:DesiredInstanceCount",
        ResourceId=resource_id,
        MaxCapacity=99,
    )
    program.kubectl(region, "label", "deployment", "triton", "app.kubernetes.io/name-")
    program.kubectl(region, "delete", "hpa", "triton")
    program.pulumi("refresh", "--yes", "--skip-preview", f"--config-file={program.file}")
    found = program.resources()
    assert found[f"{stack}-scaling-target"]["inputs"]["maxCapacity"] == 99
    assert not found[f"{stack}-{region}-triton-deployment"]["inputs"]["metadata"].get("labels")
    assert f"{stack}-{region}-scaling-autoscaler" not in found

    content = yaml.safe_load(program.file.read_text())
    content["config"]["triton-stack:model"]["digest"] = DIGEST
    # One of those is enough for the base traffic, and one is no fleet of which a part could move.
    content["config"]["triton-stack:sagemaker"] |= {
        "instance_type": "ml.g4dn.12xlarge",
        "deployment": {"strategy": "all-at-once", "wait_s": 0},
    }
    program.file.write_text(yaml.safe_dump(content))
    done = program.up()

    plan = plan_fleet(read_stack_file(program.file)).sagemaker
    assert plan
    assert program.scalable_target()["MaxCapacity"] == plan.max_count
    assert program.object(region, "deployment")["metadata"]["labels"] == {"app.kubernetes.io/name": "triton"}
    assert ("create", f"{stack}-{region}-scaling-autoscaler") in done

    for replaced in (f"{stack}-model", f"{stack}-configuration"):
        order = [("create-replacement", replaced), ("update", stack), ("delete-replaced", replaced)]
        assert sorted(order, key=done.index) == order
    assert {name for operation, name in done if operation == "replace"} == {f"{stack}-model", f"{stack}-configuration"}
    assert program.outputs()["sagemaker"]["endpoint"] == outputs["sagemaker"]["endpoint"]
    after, sagemaker = program.resources(), program.aws("sagemaker")
    served = sagemaker.describe_endpoint(EndpointName=outputs["sagemaker"]["endpoint"])["EndpointConfigName"]
    assert served == after[f"{stack}-configuration"]["id"] != before[f"{stack}-configuration"]["id"]
    models = [each["ModelName"] for each in sagemaker.list_models()["Models"] if each["ModelName"].startswith(stack)]
    assert models == [after[f"{stack}-model"]["id"]]
    for cluster in program.outputs()["gke"]:
        deployment = program.object(cluster["region"], "deployment")
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert container["args"][0].endswith(f"/models/bert-large/{DIGEST}")
        assert deployment["status"]["updatedReplicas"] == deployment["status"]["readyReplicas"] == 2


def test_destroy_leaves_the_model_store_and_nothing_else(program: Program) -> None:
    stack = f"triton-{program.name}"
    s3_bucket, gcs_bucket = (
        urlsplit(str(each["model_uri"])).netloc
        for each in (program.outputs()["sagemaker"], program.outputs()["gke"][0])
    )
    program.pulumi("destroy", "--yes", "--skip-preview", f"--config-file={program.file}")
    assert program.resources() == {}

    sagemaker, s3 = program.aws("sagemaker"), program.aws("s3")
    left = [each["EndpointName"] for each in sagemaker.list_endpoints()["Endpoints"]]
    left += [each["EndpointConfigName"] for each in sagemaker.list_endpoint_configs()["EndpointConfigs"]]
    left += [each["ModelName"] for each in sagemaker.list_models()["Models"]]
    left += [each["RoleName"] for each in program.aws("iam").list_roles()["Roles"]]
    left += [
        each["ResourceId"].split("/")[1]
        for each in program.aws("application-autoscaling").describe_scalable_targets(ServiceNamespace="sagemaker")[
            "ScalableTargets"
        ]
    ]
    assert [name for name in left if name.startswith(stack)] == []
    recorded = [path for path in (program.cloud.state / "gcp").rglob("*.json") if stack in path.read_text()]
    assert [path.parent.name for path in recorded] == ["Bucket"]
    for region in program.clusters:
        names = json.loads(program.kubectl(region, "get", "namespaces", "--output=json"))["items"]
        assert stack not in [each["metadata"]["name"] for each in names]

    assert s3_bucket in [each["Name"] for each in s3.list_buckets()["Buckets"]]
    assert s3.get_public_access_block(Bucket=s3_bucket)["PublicAccessBlockConfiguration"]["BlockPublicPolicy"] is True
    assert recorded[0].stem == gcs_bucket


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_a_preview_needs_no_cloud_at_all_and_changes_no_file(
    stack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    nobody = LocalCloud(tmp_path, Ports.free(), t4_nodes=0)
    monkeypatch.setattr(stack_command, "local_cloud", lambda: nobody)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    file = PROJECT_FOLDER / f"Pulumi.{stack}.yaml"
    before = file.read_bytes()
    stack_command.preview(stack, as_json=True)
    steps = json.loads(capfd.readouterr().out)["steps"]
    assert {step["op"] for step in steps} == {"create"}
    regions = read_stack_file(file).gke.regions
    assert len([step for step in steps if step["urn"].endswith("-triton-deployment")]) == len(regions)
    assert file.read_bytes() == before
    assert not list(tmp_path.glob("pids/*"))
