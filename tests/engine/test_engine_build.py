"""An engine as a resource: what a preview says of it, that it is built once, and how its failure is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from kubernetes import client, config
from pulumi_stack import PulumiError, Stack
from tiny_engine import Job, install, order

from localcloud.cloud import LocalCloud
from model_repo.engine import EngineOrder
from model_repo.engine_job.layout import repository_digest, repository_files
from model_repo.engine_job.lease import pointer_path

kube_config: Any = config

NewStack = Callable[..., Stack]


@pytest.fixture(scope="module")
def stack(cloud: LocalCloud, new_stack: NewStack, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    install(cloud.state / "programs")
    endpoints = [dict.fromkeys(("s3", "sagemaker", "iam"), cloud.aws_url)]
    stack = new_stack("engine", aws__region="us-east-1", aws__endpoints=endpoints)
    job = Job(tmp_path_factory.mktemp("job"))
    shutil.copytree(job.folder / "source", stack.folder / "source")
    shutil.copy(job.folder / "order.json", stack.folder / "order.json")
    return stack


def jobs(cloud: LocalCloud) -> list[dict[str, Any]]:
    session: Any = boto3.Session("local", "local", region_name="us-east-1")
    return session.client("sagemaker", endpoint_url=cloud.aws_url).list_processing_jobs()["ProcessingJobSummaries"]


def leave_record(cloud: LocalCloud, folder: Path) -> dict[str, Any]:
    """What the Job leaves in the bucket; no container runs on a simulated node, so its step runs here."""
    job = Job(folder)
    assert job.run().returncode == 0
    record = job.record() | {"location": "engines/one.plan"}
    gcs: Any = storage
    client = gcs.Client("local", AnonymousCredentials(), client_options={"api_endpoint": cloud.gcs_url})
    client.create_bucket("engines").blob(pointer_path(order().key)).upload_from_string(json.dumps(record))
    return record


def test_the_first_update_compiles_and_says_so_before(cloud: LocalCloud, stack: Stack) -> None:
    key = order().key[:12]
    assert f"engine {key}: will compile on ml.g4dn.xlarge" in stack.pulumi("preview")
    printed = stack.pulumi("up", "--yes", "--skip-preview")
    assert f"engine {key}: started triton-engine-" in printed
    outputs = stack.outputs()
    assert len(outputs["digest"]) == 64
    assert outputs["uri"] == f"s3://{outputs['bucket']}/models/bert-small/{outputs['digest']}"
    assert len(jobs(cloud)) == 1


def test_an_unchanged_program_changes_nothing_and_another_image_uri_is_no_reason_to_compile(
    cloud: LocalCloud, stack: Stack
) -> None:
    assert stack.preview() == []
    stack.configure(image="763104351884.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tritonserver:25.09-py3-2")
    assert stack.operations() == {}
    assert len(jobs(cloud)) == 1


def test_another_variant_of_the_same_engine_is_published_without_a_job(cloud: LocalCloud, stack: Stack) -> None:
    before = stack.outputs()["digest"]
    (stack.folder / "order.json").write_text(order("trt-base").model_dump_json())
    assert "compiled before, will not compile" in stack.pulumi("preview")
    assert stack.up()["digest"] != before
    assert len(jobs(cloud)) == 1


def test_a_failed_build_is_told_with_its_reason_and_log_and_the_stack_keeps_what_it_had(
    cloud: LocalCloud, stack: Stack
) -> None:
    install(cloud.state / "programs", TRTEXEC_FAULT="fails")
    before = stack.outputs()["digest"]
    other = json.loads((stack.folder / "order.json").read_text()) | {"key": "f" * 64}
    (stack.folder / "order.json").write_text(json.dumps(other))
    with pytest.raises(
        PulumiError, match=r"failed: trtexec failed.*unsupported operator Foo; log: https://us-east-1\.c"
    ):
        stack.up()
    assert stack.outputs()["digest"] == before


def test_the_job_runs_on_a_t4_node_and_the_digest_follows_from_what_it_leaves(
    cloud: LocalCloud, new_stack: NewStack, tmp_path: Path
) -> None:
    record = leave_record(cloud, tmp_path)
    stack = new_stack("engine-job", kubeconfig=str(cloud.state / "kubeconfig"), bucket="engines")
    (stack.folder / "order.json").write_text(order().model_dump_json())
    outputs = stack.up()
    assert outputs["digest"] == repository_digest(repository_files(order().model_dump(mode="json"), record))
    assert outputs["uri"] == f"gs://engines/models/bert-small/{outputs['digest']}"
    api: Any = kube_config.new_client_from_config(str(cloud.state / "kubeconfig"))
    core: Any = client.CoreV1Api(api)
    batch: Any = client.BatchV1Api(api)
    (pod,) = core.list_namespaced_pod(outputs["namespace"]).items
    node = core.read_node(pod.spec.node_name)
    assert node.metadata.labels["cloud.google.com/gke-accelerator"] == "nvidia-tesla-t4"
    assert [each.name for each in pod.spec.init_containers] == ["fetch", "compile"]
    (job,) = batch.list_namespaced_job(outputs["namespace"]).items
    # Kubernetes gives a pod the label that the lease is held by.
    assert pod.metadata.labels["batch.kubernetes.io/controller-uid"] == job.metadata.uid
    assert job.status.succeeded == 1
    maps = core.list_namespaced_config_map(outputs["namespace"]).items
    (content,) = [each.data["order.json"] for each in maps if "order.json" in each.data]
    assert EngineOrder.model_validate_json(content) == order()
    assert stack.preview() == []
