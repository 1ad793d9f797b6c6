"""The stand-in for the AWS provider behaves as a provider must."""

from collections.abc import Callable
from typing import Any

import boto3
import pytest
from pulumi_stack import PulumiError, Stack

from localcloud.cloud import LocalCloud

NewStack = Callable[..., Stack]
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


def client(cloud: LocalCloud, service: str) -> Any:
    session = boto3.Session(aws_access_key_id="local", aws_secret_access_key="local", region_name="us-east-1")
    return session.client(service, endpoint_url=cloud.aws_url)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownMemberType, reportUnknownVariableType] - of any service


def endpoints(url: str) -> list[dict[str, str]]:
    return [dict.fromkeys(("s3", "sagemaker", "iam", "applicationautoscaling"), url)]


@pytest.fixture(scope="module")
def stack(cloud: LocalCloud, new_stack: NewStack) -> Stack:
    stack = new_stack("bucket", aws__region="us-east-1", aws__endpoints=endpoints(cloud.aws_url))
    stack.up()
    return stack


@pytest.fixture(scope="module")
def offline(new_stack: NewStack) -> Stack:
    stack = new_stack("bucket", aws__region="us-east-1")
    del stack.environment["AWS_ENDPOINT_URL"]
    return stack


def test_a_preview_needs_no_cloud_and_what_only_the_cloud_knows_is_unknown(offline: Stack) -> None:
    inputs = {step["urn"].rpartition("::")[2]: step["newState"].get("inputs", {}) for step in offline.preview()}
    assert inputs["bucket"]["tags"] == {"team": "serving"}
    assert inputs["versioning"] == {"bucket": UNKNOWN, "versioningConfiguration": {"status": "Enabled"}}
    assert set(inputs) == {"bucket-program-test", "bucket", "versioning", "weights", "note"}


def test_a_misspelt_property_is_an_error_that_names_the_nearest(offline: Stack) -> None:
    offline.configure(status_key="statuss")
    with pytest.raises(
        PulumiError,
        match=r"""(?x) aws:s3/bucketVersioning:BucketVersioning\ has\ no\ property
            \ "versioningConfiguration\.statuss";\ the\ nearest\ is\ "versioningConfiguration\.status" """,
    ):
        offline.pulumi("preview")
    offline.configure(status_key=None)


def test_a_cloud_that_is_not_this_machine_is_refused(offline: Stack) -> None:
    offline.configure(aws__endpoints=endpoints("https://s3.us-east-1.amazonaws.com"))
    with pytest.raises(PulumiError, match=r"this machine only(.|\n)*pulumi plugin install resource aws 7"):
        offline.up()
    assert "bucket" not in offline.resources()


def test_an_unchanged_program_changes_nothing_and_a_tag_is_changed_in_place(cloud: LocalCloud, stack: Stack) -> None:
    assert stack.preview() == []
    before = stack.resources()["bucket"]["id"]
    stack.configure(team="research")
    assert stack.operations() == {"bucket": "update"}
    assert stack.up()["bucket"] == before
    assert client(cloud, "s3").get_bucket_tagging(Bucket=before)["TagSet"] == [{"Key": "team", "Value": "research"}]


def test_refresh_finds_what_was_changed_and_what_is_gone(cloud: LocalCloud, stack: Stack) -> None:
    bucket, s3 = stack.resources()["bucket"]["id"], client(cloud, "s3")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    s3.delete_bucket_tagging(Bucket=bucket)
    s3.delete_object(Bucket=bucket, Key="weights")
    stack.refresh()
    state = stack.resources()
    assert state["versioning"]["outputs"]["versioningConfiguration"] == {"status": "Suspended"}
    assert "weights" not in state
    assert stack.operations() == {"bucket": "update", "versioning": "update", "weights": "create"}
    stack.up()
    assert s3.get_object(Bucket=bucket, Key="weights")["Body"].read() == b"the weights\n"


def test_a_secret_stays_secret(cloud: LocalCloud, stack: Stack) -> None:
    bucket = stack.resources()["bucket"]["id"]
    assert client(cloud, "s3").get_object(Bucket=bucket, Key="note")["Body"].read() == b"opensesame"
    assert "opensesame" not in stack.pulumi("stack", "export")
    assert "opensesame" not in stack.pulumi("stack", "output", "--json")
    files = [file for file in stack.folder.parent.rglob("backend/**/*") if file.is_file()]
    assert files
    assert not [file for file in files if b"opensesame" in file.read_bytes()]


def test_a_failed_replacement_keeps_what_there_was_and_what_is_gone_already_can_be_destroyed(
    cloud: LocalCloud, stack: Stack
) -> None:
    before, s3 = stack.resources(), client(cloud, "s3")
    bucket = before["bucket"]["id"]
    stack.configure(note_bucket="not-there")
    with pytest.raises(PulumiError, match="NoSuchBucket"):
        stack.up()
    assert stack.resources()["note"]["id"] == before["note"]["id"]
    assert s3.get_object(Bucket=bucket, Key="note")["Body"].read() == b"opensesame"
    for version in s3.list_object_versions(Bucket=bucket, Prefix="weights")["Versions"]:
        s3.delete_object(Bucket=bucket, Key="weights", VersionId=version["VersionId"])
    stack.destroy()
    assert stack.resources() == {}
    assert bucket not in [each["Name"] for each in s3.list_buckets()["Buckets"]]


def test_what_sagemaker_cannot_change_is_replaced_and_the_endpoint_moves_over(
    cloud: LocalCloud, new_stack: NewStack
) -> None:
    stack = new_stack("endpoint", aws__region="us-east-1", aws__endpoints=endpoints(cloud.aws_url))
    outputs, before = stack.up(), stack.resources()
    client(cloud, "application-autoscaling").register_scalable_target(
        ServiceNamespace="sagemaker",
        ScalableDimension="sagemaker:variant:DesiredInstanceCount",
        ResourceId=outputs["resource_id"],
        MaxCapacity=9,
    )
    stack.refresh()
    stack.configure(model="resnet50")
    steps = {step["urn"].rpartition("::")[2]: step for step in stack.preview() if step["op"] in ("update", "replace")}
    assert {name: step["op"] for name, step in steps.items()} == {
        "model": "replace",
        "configuration": "replace",
        "endpoint": "update",
        "target": "update",
    }
    outputs, after = stack.up(), stack.resources()
    assert "opensesame" not in stack.pulumi("stack", "export")
    sagemaker = client(cloud, "sagemaker")
    assert after["endpoint"]["id"] == before["endpoint"]["id"]
    served = sagemaker.describe_endpoint(EndpointName=outputs["endpoint"])["EndpointConfigName"]
    assert served == outputs["configuration"] == after["configuration"]["id"] != before["configuration"]["id"]
    names = [each["ModelName"] for each in sagemaker.list_models()["Models"]]
    assert after["model"]["id"] in names
    assert before["model"]["id"] not in names
    assert after["target"]["outputs"]["maxCapacity"] == 4
