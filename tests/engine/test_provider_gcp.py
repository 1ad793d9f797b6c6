"""The stand-in for the GCP provider behaves as a provider must."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from pulumi_stack import PulumiError, Stack

from localcloud.cloud import LocalCloud

NewStack = Callable[..., Stack]


@pytest.fixture(scope="module")
def stack(cloud: LocalCloud, new_stack: NewStack) -> Stack:
    stack = new_stack("gcp", gcp__project="local", gcp__storageCustomEndpoint=f"{cloud.gcs_url}/storage/v1/")
    del stack.environment["STORAGE_EMULATOR_HOST"]
    stack.environment["TRITON_STACK_CLUSTERS"] = json.dumps({"us-central1": str(cloud.state / "kubeconfig")})
    return stack


def bucket_of(cloud: LocalCloud, name: str) -> Any:
    client: Any = storage.Client("local", AnonymousCredentials(), client_options={"api_endpoint": cloud.gcs_url})
    return client.bucket(name)


def test_without_an_endpoint_on_this_machine_there_is_a_preview_and_no_update(stack: Stack, cloud: LocalCloud) -> None:
    stack.configure(gcp__storageCustomEndpoint=None)
    assert set(stack.operations().values()) == {"create"}
    with pytest.raises(PulumiError, match=r"this machine only(.|\n)*pulumi plugin install resource gcp 10"):
        stack.up()
    assert "cluster" not in stack.resources()
    stack.configure(gcp__storageCustomEndpoint=f"{cloud.gcs_url}/storage/v1/")


def test_up_stores_objects_and_gives_the_cluster_a_real_endpoint_and_then_nothing_changes(
    stack: Stack, cloud: LocalCloud
) -> None:
    outputs = stack.up()
    assert bucket_of(cloud, outputs["bucket"]).blob("weights").download_as_bytes() == b"the weights\n"
    kubeconfig = yaml.safe_load((cloud.state / "kubeconfig").read_text())["clusters"][0]["cluster"]
    assert f"https://{outputs['endpoint']}" == kubeconfig["server"]
    assert outputs["certificate"] == kubeconfig["certificate-authority-data"]
    assert outputs["email"] == "triton@local.iam.gserviceaccount.com"
    assert outputs["number"].isdigit()
    assert stack.preview() == []


def test_labels_change_in_place_and_an_account_id_replaces(stack: Stack) -> None:
    stack.configure(team="research", account="triton-two")
    steps = {step["urn"].rpartition("::")[2]: step["op"] for step in stack.preview() if "-" not in step["op"]}
    assert steps == {"bucket": "update", "account": "replace", "reader": "replace"}
    assert stack.up()["email"] == "triton-two@local.iam.gserviceaccount.com"


def test_refresh_finds_what_was_changed_and_what_is_gone(stack: Stack, cloud: LocalCloud) -> None:
    bucket = bucket_of(cloud, stack.outputs()["bucket"])
    bucket.blob("weights").upload_from_string(b"other weights")
    (record,) = (cloud.state / "gcp" / "Cluster").glob("*.json")
    record.write_text(record.read_text().replace('"removeDefaultNodePool": true', '"removeDefaultNodePool": false'))
    (member,) = (cloud.state / "gcp" / "BucketIAMMember").glob("*.json")
    member.unlink()
    stack.refresh()
    steps = {step["urn"].rpartition("::")[2]: step["op"] for step in stack.preview() if "-" not in step["op"]}
    assert steps == {"weights": "update", "cluster": "replace", "reader": "create"}
    stack.up()
    assert bucket.blob("weights").download_as_bytes() == b"the weights\n"


def test_a_protected_cluster_is_not_deleted_and_destroy_deletes_the_rest(stack: Stack, cloud: LocalCloud) -> None:
    stack.configure(protected=True)
    bucket = stack.up()["bucket"]
    with pytest.raises(PulumiError, match="deletionProtection is true"):
        stack.destroy()
    assert "cluster" in stack.resources()
    stack.configure(protected=False)
    stack.up()
    (record,) = (cloud.state / "gcp" / "Cluster").glob("*.json")
    record.unlink()
    stack.destroy()  # what is gone already is fine
    assert stack.resources() == {}
    assert not bucket_of(cloud, bucket).exists()
