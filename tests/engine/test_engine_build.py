"""An engine as a resource: what a preview says of it, that it is built once, and how its failure is told."""

import json
import shutil
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from pulumi_stack import PulumiError, Stack
from tiny_engine import Job, install, order

from localcloud.cloud import LocalCloud

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


def test_the_first_update_compiles_and_says_so_before(cloud: LocalCloud, stack: Stack) -> None:
    key = order().key[:12]
    assert f"engine {key}: will compile on ml.g4dn.xlarge" in stack.pulumi("preview")
    printed = stack.pulumi("up", "--yes", "--skip-preview")
    assert f"engine {key}: started triton-engine-" in printed
    outputs = stack.outputs()
    assert len(outputs["digest"]) == 64
    assert outputs["uri"] == f"s3://{outputs['bucket']}/models/bert-small/{outputs['digest']}/"
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
    install(cloud.state / "programs")
    assert stack.up()["digest"] != before
