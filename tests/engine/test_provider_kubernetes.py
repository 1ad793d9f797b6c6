"""The stand-in for the Kubernetes provider behaves as a provider must, against a real API server."""

import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from pulumi_stack import PulumiError, Stack

from localcloud.cloud import LocalCloud

NewStack = Callable[..., Stack]


def kubectl(cloud: LocalCloud, *arguments: str) -> Any:
    done = subprocess.run(
        ["kubectl", *arguments, "-o", "yaml"],
        env=os.environ | cloud.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return yaml.safe_load(done.stdout)


def delete(cloud: LocalCloud, kind: str, name: str, namespace: str) -> None:
    subprocess.run(
        ["kubectl", "delete", kind, name, "-n", namespace],
        env=os.environ | cloud.environment(),
        capture_output=True,
        timeout=60,
        check=True,
    )


@pytest.fixture(scope="module")
def stack(cloud: LocalCloud, new_stack: NewStack) -> Stack:
    return new_stack("kubernetes", kubeconfig=str(cloud.state / "kubeconfig"))


def test_up_waits_for_the_rollout_and_the_address_and_then_nothing_changes(cloud: LocalCloud, stack: Stack) -> None:
    outputs = stack.up()
    live = kubectl(cloud, "get", "deployment", outputs["deployment"], "-n", outputs["namespace"])
    assert live["status"]["availableReplicas"] == 1
    assert outputs["address"] == "127.0.0.1"
    assert outputs["deployment"].startswith("triton-")
    assert stack.preview() == []


def test_what_autoscaling_moved_is_left_alone(cloud: LocalCloud, stack: Stack) -> None:
    outputs = stack.outputs()
    where = (outputs["deployment"], "-n", outputs["namespace"])
    kubectl(cloud, "patch", "deployment", *where, "--subresource=scale", "-p", '{"spec": {"replicas": 2}}')
    stack.configure(argument="--log-verbose=1")
    stack.up()
    live = kubectl(cloud, "get", "deployment", *where)
    assert live["spec"]["replicas"] == live["status"]["updatedReplicas"] == live["status"]["availableReplicas"] == 2
    assert live["spec"]["template"]["spec"]["containers"][0]["args"] == ["--log-verbose=1"]


def test_refresh_finds_what_was_changed_and_gone_and_fields_of_another_manager_are_taken_back_only_by_force(
    cloud: LocalCloud, stack: Stack
) -> None:
    outputs = stack.outputs()
    autoscaler = (stack.resources()["autoscaler"]["id"].rpartition("/")[2], "-n", outputs["namespace"])
    kubectl(cloud, "patch", "hpa", *autoscaler, "-p", '{"spec": {"maxReplicas": 5}}')
    delete(cloud, "service", outputs["service"], outputs["namespace"])
    stack.refresh()
    state = stack.resources()
    assert state["autoscaler"]["inputs"]["spec"]["maxReplicas"] == 5
    assert "triton-http" not in state
    with pytest.raises(PulumiError, match=r"conflict(.|\n)*pulumi.com/patchForce"):
        stack.pulumi("preview")
    stack.configure(force="true")
    assert stack.operations() == {"autoscaler": "update", "triton-http": "create"}
    stack.up()
    assert kubectl(cloud, "get", "hpa", *autoscaler)["spec"]["maxReplicas"] == 2


def test_a_selector_cannot_be_changed_so_the_deployment_is_replaced(stack: Stack) -> None:
    before = stack.resources()["triton"]["id"]
    stack.configure(app="other")
    steps = [step["op"] for step in stack.preview() if step["urn"].endswith("::triton")]
    assert steps == ["replace"]
    stack.configure(app=None)
    assert stack.resources()["triton"]["id"] == before


def test_a_misspelt_field_is_an_error_that_names_the_nearest(stack: Stack) -> None:
    program = stack.folder / "__main__.py"
    right = program.read_text()
    program.write_text(right.replace('"tolerations":', '"tolerationss":'))
    with pytest.raises(PulumiError, match=r'no property "spec.template.spec.tolerationss"; the nearest is "spec.temp'):
        stack.pulumi("preview")
    program.write_text(right)


def test_a_secret_stays_secret(stack: Stack) -> None:
    state = stack.pulumi("stack", "export")
    assert "opensesame" not in state
    assert "b3BlbnNlc2FtZQ" not in state  # base64


def test_a_rollout_that_cannot_be_fails_with_the_pods_reason_and_the_next_update_mends_it(
    cloud: LocalCloud, new_stack: NewStack
) -> None:
    stack = new_stack("kubernetes", kubeconfig=str(cloud.state / "kubeconfig"), gpus="9", timeout="3")
    with pytest.raises(PulumiError, match=r"timed out after 3 s(.|\n)*Insufficient nvidia.com/gpu"):
        stack.up()
    failed = stack.resources()["triton"]
    assert failed["initErrors"]
    stack.configure(gpus="1", timeout="60")
    outputs = stack.up()
    assert outputs["deployment"] == failed["id"].rpartition("/")[2]
    assert "initErrors" not in stack.resources()["triton"]
    delete(cloud, "deployment", outputs["deployment"], outputs["namespace"])
    stack.destroy()
    assert stack.resources() == {}
    names = [each["metadata"]["name"] for each in kubectl(cloud, "get", "namespaces")["items"]]
    assert outputs["namespace"] not in names


def test_a_cluster_that_cannot_be_reached_can_be_previewed(new_stack: NewStack, cloud: LocalCloud) -> None:
    config = yaml.safe_load((cloud.state / "kubeconfig").read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    stack = new_stack("kubernetes", kubeconfig=yaml.safe_dump(config))
    del stack.environment["KUBECONFIG"]
    assert stack.operations()["triton"] == "create"
    config["clusters"][0]["cluster"]["server"] = "https://192.0.2.1"
    stack.configure(kubeconfig=yaml.safe_dump(config))
    assert stack.operations()["triton"] == "create"
