"""The whole local stack, by the real engine and with real Tritons: up, again, healed, moved on, refused and down.

The tests run in the order in which they stand here: each goes on from where the one before it left the stack.
"""

import importlib
import os
import re
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3
import numpy as np
import psutil
import pytest
import requests
from botocore.exceptions import ClientError
from local_stack import LocalStack

from cli.local import take_down
from delivery.smoke import smoke
from delivery.stack import PROJECT_FOLDER, StackError
from localcloud.supervisor import port_is_free
from model_repo.build import built
from model_repo.manifest import MANIFEST_NAME, Manifest
from model_repo.recipe import named_recipe
from model_repo.sample import Array, reference_outputs, sample_inputs
from model_repo.spec import load_spec

triton_http: Any = importlib.import_module("tritonclient.http")  # untyped
triton_grpc: Any = importlib.import_module("tritonclient.grpc")

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[LocalStack]:
    with patch.dict(os.environ):  # which `up` fills for its own process
        stack = LocalStack(tmp_path_factory.mktemp("stack"))
        try:
            stack.up()
            yield stack
        finally:
            stack.cloud.down()


def client(service: str) -> Any:
    # Endpoint and credentials are in the environment.
    untyped: Any = boto3
    return untyped.client(service)


def describe_served_model(outputs: dict[str, Any]) -> dict[str, Any]:
    """The container of the SageMaker model behind the endpoint."""
    sagemaker = client("sagemaker")
    endpoint = sagemaker.describe_endpoint(EndpointName=outputs["sagemaker"]["endpoint"])
    config = sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    return sagemaker.describe_model(ModelName=config["ProductionVariants"][0]["ModelName"])["PrimaryContainer"]


def deployed_container(stack: LocalStack) -> dict[str, Any]:
    """The container of the Deployment, from the API server."""
    deployment = stack.json("kubectl", "get", "deployment", "triton", "--namespace=triton-local", "--output=json")
    return deployment["spec"]["template"]["spec"]["containers"][0]


def triton_with(argument: str) -> psutil.Process:
    """The one tritonserver on this machine that was started with an argument."""

    def matches(process: psutil.Process) -> bool:
        try:
            command = process.cmdline()
        except psutil.Error:
            return False
        return bool(command) and Path(command[0]).name == "tritonserver" and argument in command

    (process,) = filter(matches, psutil.process_iter())
    return process


def sagemaker_triton(stack: LocalStack, outputs: dict[str, Any]) -> tuple[psutil.Process, Path]:
    """The Triton behind the endpoint, and the folder that it serves."""
    endpoint = stack.state / "sagemaker" / outputs["sagemaker"]["endpoint"]
    config = client("sagemaker").describe_endpoint(EndpointName=endpoint.name)["EndpointConfigName"]
    repository = endpoint / config / "model"
    return triton_with(f"--model-repository={repository}"), repository


def gke_triton(outputs: dict[str, Any]) -> psutil.Process:
    """The Triton behind the Deployment."""
    return triton_with(f"--model-repository={outputs['gke'][0]['model_uri']}")


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def reference(model: str, inputs: dict[str, Array]) -> dict[str, Array]:
    """What onnxruntime makes of inputs."""
    artifact = built(named_recipe(model, "trt-db"))
    return reference_outputs(artifact.folder / model / "1" / "model.onnx", inputs)


def binary_request(model: str, inputs: dict[str, Array]) -> tuple[bytes, str]:
    """Body and content type of an invocation with binary tensors."""
    tensors: list[Any] = []
    for tensor in load_spec(model).inputs:
        tensors.append(triton_http.InferInput(tensor.name, inputs[tensor.name].shape, tensor.dtype))
        tensors[-1].set_data_from_numpy(inputs[tensor.name])
    wanted = [triton_http.InferRequestedOutput(tensor.name, binary_data=True) for tensor in load_spec(model).outputs]
    body, header = triton_http.InferenceServerClient.generate_request_body(tensors, outputs=wanted)
    return body, f"application/vnd.sagemaker-triton.binary+json;json-header-size={header}"


def invoke_binary(outputs: dict[str, Any], model: str, inputs: dict[str, Array]) -> dict[str, Array]:
    body, content_type = binary_request(model, inputs)
    answer = client("sagemaker-runtime").invoke_endpoint(
        EndpointName=outputs["sagemaker"]["endpoint"], ContentType=content_type, Body=body
    )
    header = int(answer["ContentType"].rpartition("=")[2])
    result = triton_http.InferenceServerClient.parse_response_body(answer["Body"].read(), header_length=header)
    return {tensor.name: result.as_numpy(tensor.name) for tensor in load_spec(model).outputs}


def assert_both_targets_answer(outputs: dict[str, Any], model: str, batch_size: int) -> None:
    """Every way into the stack answers as onnxruntime does."""
    spec = load_spec(model)
    inputs = sample_inputs(spec, batch_size, seed=batch_size)
    expected = reference(model, inputs)
    answers = {(answer.target, answer.protocol): answer.outputs for answer in smoke(outputs, spec, inputs)}
    answers["sagemaker", "binary"] = invoke_binary(outputs, model, inputs)
    ways = [("sagemaker", "invoke_endpoint"), ("gke us-central1", "http"), ("gke us-central1", "grpc")]
    assert list(answers) == [*ways, ("sagemaker", "binary")]
    for way, answer in answers.items():
        assert answer.keys() == expected.keys()
        for name, values in expected.items():
            assert answer[name].shape == (batch_size, *spec.outputs[0].dims)
            np.testing.assert_allclose(answer[name], values, rtol=0, atol=TOLERANCE, err_msg=str(way))


def test_the_outputs_say_where_what_and_how_many(stack: LocalStack) -> None:
    outputs = stack.outputs()
    digest = built(named_recipe("bert-small", "trt-db")).digest
    assert outputs["sagemaker"]["endpoint"] in {
        one["EndpointName"] for one in client("sagemaker").list_endpoints()["Endpoints"]
    }
    (cluster,) = outputs["gke"]
    assert cluster["http"] == f"http://127.0.0.1:{stack.ports[-2]}"
    assert cluster["grpc"] == f"127.0.0.1:{stack.ports[-1]}"
    for target in (outputs["sagemaker"], cluster):
        assert target["digest"] == digest
        plan = target["plan"]
        assert (plan["min_count"], plan["count"], plan["max_count"]) == (2, 3, 4)


def test_what_up_waited_for_sagemaker_is_a_metric_of_the_variant_that_answered(stack: LocalStack) -> None:
    (metric,) = client("cloudwatch").list_metrics(Namespace="TritonStack")["Metrics"]
    assert metric["MetricName"] == "EndToEndLatency"
    assert metric["Dimensions"] == [
        {"Name": "EndpointName", "Value": stack.outputs()["sagemaker"]["endpoint"]},
        {"Name": "VariantName", "Value": "triton"},
    ]


def test_one_triton_pod_runs_on_each_t4_node(stack: LocalStack) -> None:
    pods = stack.json("kubectl", "get", "pods", "-A", "--output=json")["items"]
    nodes = stack.json("kubectl", "get", "nodes", "-l=cloud.google.com/gke-accelerator", "--output=json")["items"]
    assert {pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in pods} == {"triton"}
    assert {pod["status"]["phase"] for pod in pods} == {"Running"}
    assert len(pods) == stack.outputs()["gke"][0]["plan"]["min_count"]
    assert sorted(pod["spec"]["nodeName"] for pod in pods) == sorted(node["metadata"]["name"] for node in nodes)


def test_sagemaker_s_triton_has_the_model_s_environment_and_bytes(stack: LocalStack) -> None:
    outputs = stack.outputs()
    container = describe_served_model(outputs)
    process, repository = sagemaker_triton(stack, outputs)
    assert container["Environment"].items() <= process.environ().items()
    assert {"--allow-sagemaker=true", "--load-model=bert-small"} <= set(process.cmdline())
    # The arguments of the process name a folder: its bytes are those of the digest, and the digest is the model's.
    manifest = Manifest.from_bytes((repository / MANIFEST_NAME).read_bytes())
    assert manifest.check_folder(repository) == []
    assert container["ModelDataSource"]["S3DataSource"]["S3Uri"].endswith(f"/models/bert-small/{manifest.digest}/")
    assert manifest.digest == outputs["sagemaker"]["digest"]


def test_gke_s_triton_has_the_deployment_s_arguments(stack: LocalStack) -> None:
    outputs = stack.outputs()
    container = deployed_container(stack)
    process = gke_triton(outputs)
    arguments = container["args"]
    assert process.cmdline()[1 : 1 + len(arguments)] == arguments
    assert Path(process.cmdline()[0]).name == container["command"][0]
    assert {one["name"]: one["value"] for one in container.get("env", [])}.items() <= process.environ().items()
    assert any(one.endswith(f"/models/bert-small/{outputs['gke'][0]['digest']}") for one in arguments)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_both_targets_answer_as_onnxruntime_does(stack: LocalStack, batch_size: int) -> None:
    assert_both_targets_answer(stack.outputs(), "bert-small", batch_size)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 64), "unexpected shape for input"), ((17, 128), "batch-size must be <= 16")],
    ids=["wrong shape", "batch over the maximum"],
)
def test_a_request_that_does_not_fit_is_refused_with_triton_s_message(
    stack: LocalStack, shape: tuple[int, int], message: str
) -> None:
    outputs = stack.outputs()
    body, content_type = binary_request(
        "bert-small", dict.fromkeys(("input_ids", "attention_mask"), np.ones(shape, np.int32))
    )
    endpoint = outputs["sagemaker"]["endpoint"]
    with pytest.raises(ClientError, match=message) as caught:
        client("sagemaker-runtime").invoke_endpoint(EndpointName=endpoint, ContentType=content_type, Body=body)
    response: Any = caught.value.response
    assert (response["Error"]["Code"], response["OriginalStatusCode"]) == ("ModelError", 400)
    answer = requests.post(
        f"{outputs['gke'][0]['http']}/v2/models/bert-small/infer",
        body,
        headers={"Inference-Header-Content-Length": content_type.rpartition("=")[2]},
        timeout=10,
    )
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_up_again_changes_nothing(stack: LocalStack, capfd: pytest.CaptureFixture[str]) -> None:
    before, pids, outputs = stack.file.read_bytes(), stack.pids(), stack.outputs()
    stack.up()
    assert capfd.readouterr().err.splitlines()[-1] == "unchanged"
    assert (stack.file.read_bytes(), stack.pids(), stack.outputs()) == (before, pids, outputs)


def test_pruning_leaves_what_the_stack_serves_though_its_file_names_no_digest(stack: LocalStack) -> None:
    served = {target["digest"] for target in (stack.outputs()["sagemaker"], *stack.outputs()["gke"])}
    for uri in (stack.outputs()["sagemaker"]["model_uri"], stack.outputs()["gke"][0]["model_uri"]):
        store = uri.partition("/models/")[0]
        pruning = stack.json(
            *("triton-stack", "model", "prune", store, "--older-than", "0", "--dry-run", "--json"),
        )
        assert not served & {found["digest"] for found in pruning["repositories"]}


def test_killed_emulators_come_back_with_all_that_the_stack_had(
    stack: LocalStack, capfd: pytest.CaptureFixture[str]
) -> None:
    before = stack.pids()
    for name in ("aws", "gcs", "gke-node"):
        os.kill(before[name], signal.SIGKILL)
    stack.up()
    assert capfd.readouterr().err.splitlines()[-1] != "unchanged"
    after = stack.pids()
    assert {name for name, pid in after.items() if pid != before[name]} == {"aws", "gcs", "gke-node"}
    assert_both_targets_answer(stack.outputs(), "bert-small", 1)


def test_another_model_takes_the_place_of_the_old_one(stack: LocalStack) -> None:
    old = stack.outputs()
    old_tritons = sagemaker_triton(stack, old)[0], gke_triton(old)
    stack.set("model", name="resnet50")
    stack.up()
    outputs = stack.outputs()
    digest = built(named_recipe("resnet50", "trt-db")).digest
    assert (outputs["sagemaker"]["digest"], outputs["gke"][0]["digest"]) == (digest, digest)
    assert outputs["sagemaker"]["endpoint"] == old["sagemaker"]["endpoint"]
    assert describe_served_model(outputs)["ModelDataSource"]["S3DataSource"]["S3Uri"].endswith(f"{digest}/")
    assert_both_targets_answer(outputs, "resnet50", 5)

    assert all(eventually(lambda process=process: gone(process)) for process in old_tritons)
    assert len(client("sagemaker").list_models()["Models"]) == 1
    assert len(client("sagemaker").list_endpoint_configs()["EndpointConfigs"]) == 1
    asked = requests.get(f"{outputs['gke'][0]['http']}/v2/models/bert-small", timeout=10)
    assert (asked.status_code, "unknown model" in asked.text) == (404, True)


def test_bytes_that_are_not_the_digest_s_are_refused_in_one_line_and_the_old_instances_serve_on(
    stack: LocalStack, capfd: pytest.CaptureFixture[str]
) -> None:
    outputs = stack.outputs()
    bucket, _, prefix = outputs["sagemaker"]["model_uri"].removeprefix("s3://").partition("/")
    key = {"Bucket": bucket, "Key": f"{prefix}/resnet50/1/model.onnx"}
    onnx = bytearray(client("s3").get_object(**key)["Body"].read())
    onnx[len(onnx) // 2] ^= 1
    client("s3").put_object(**key, Body=bytes(onnx))
    stack.set("sagemaker", instance_type="ml.g4dn.12xlarge")  # new instances, which load the model anew
    with pytest.raises(StackError):
        stack.up()
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said
    # Pulumi says it as it happens, and again under the resource, at the end.
    lines = [line for line in said.splitlines() if "resnet50/1/model.onnx" in line]
    errors = {line[line.index("the endpoint") :] for line in lines}
    assert len(errors) == 1, errors
    reason = (
        f"the endpoint {outputs['sagemaker']['endpoint']} was rolled back and still serves .*: "
        "the repository is not what was published: "
    )
    assert re.match(f"{reason}resnet50/1/model.onnx: SHA-256", errors.pop())
    assert_both_targets_answer(outputs, "resnet50", 1)


def test_down_leaves_nothing_but_the_stack_file(stack: LocalStack) -> None:
    file = stack.file.read_bytes()
    checkout_file = (PROJECT_FOLDER / "Pulumi.local.yaml").read_bytes()
    assert of_state(stack.state)
    take_down(stack.cloud, stack.file)
    assert of_state(stack.state) == []
    assert [port for port in stack.ports if not port_is_free(port)] == []
    assert not stack.state.exists()
    assert stack.file.read_bytes() == file
    assert (PROJECT_FOLDER / "Pulumi.local.yaml").read_bytes() == checkout_file


def of_state(state: Path) -> list[str]:
    """Command lines of the processes, this one left out, whose command or environment names a state folder."""
    found: list[str] = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            named = any(str(state) in text for text in [*command, *process.environ().values()])
        except psutil.Error:  # it has gone, or is another user's
            continue
        if named and process.pid != os.getpid():
            found.append(" ".join(command))
    return found
