"""One inference by every way into a stack."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import boto3
import botocore.exceptions
import numpy as np
import requests
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from model_repo.payload import CONTENT_TYPE, request_body
from model_repo.sample import Array
from model_repo.spec import ModelSpec
from observability.end_to_end import publish_latencies
from observability.endpoint_metrics import END_TO_END_LATENCY, EndpointVariant

if TYPE_CHECKING:
    from types_boto3_cloudwatch import CloudWatchClient
    from types_boto3_sagemaker_runtime import SageMakerRuntimeClient

MAX_ABS_ERROR = 1e-4
"""How far an answer may be from onnxruntime's on the same input."""

_TIMEOUT_S = 30


class SmokeError(RuntimeError):
    """An endpoint that does not answer, or answers wrongly."""


class PublishError(RuntimeError):
    """A latency that CloudWatch did not take. The answers are as good without it."""


@dataclass(frozen=True)
class Answer:
    """What one endpoint answered to one request."""

    target: str
    protocol: str
    latency_ms: float
    """As this client saw it, connection included."""
    outputs: dict[str, Array]
    variant: str | None = None
    """The production variant that answered, of a SageMaker endpoint."""


def smoke(outputs: dict[str, Any], spec: ModelSpec, inputs: dict[str, Array]) -> Iterator[Answer]:
    """Send one request by every protocol of every target of a stack, and check the shapes of what comes back.

    Args:
        outputs: The stack's outputs.
        spec: The model that the stack serves.
        inputs: One batch, by input name.

    Raises:
        SmokeError: No answer, an error in its place, or outputs of another name or shape than the spec's.
    """
    batch_size = len(next(iter(inputs.values())))
    expected = {tensor.name: (batch_size, *tensor.dims) for tensor in spec.outputs}
    for target, protocol, infer in _ways(outputs):
        answer = _ask(target, protocol, lambda infer=infer: infer(spec, inputs))
        shapes = {name: tuple(array.shape) for name, array in answer.outputs.items()}
        if shapes != expected:
            raise SmokeError(f"{target} answers over {protocol} with {shapes}; {spec.name} has {expected}")
        yield answer


def check_answer(answer: Answer, reference: dict[str, Array]) -> Answer:
    """Give back an answer that equals the reference.

    Raises:
        SmokeError: It differs by more than 1e-4 somewhere.
    """
    for name, expected in reference.items():
        error = float(np.max(np.abs(answer.outputs[name] - expected)))
        # Written so that a NaN, which is over no bound, is refused too.
        if not error <= MAX_ABS_ERROR:
            way = f"{answer.target} over {answer.protocol}"
            raise SmokeError(f"{way} answers with another {name}: off by {error:g}, over {MAX_ABS_ERROR:g}")
    return answer


def publish(outputs: dict[str, Any], answers: Iterable[Answer]) -> None:
    """Publish in CloudWatch how long the answers of SageMaker took; those of other targets are left out.

    Apart from `smoke`: who may ask an endpoint need not be allowed to write metrics, and whether it answers rightly is
    known without.

    Args:
        outputs: The stack's outputs.
        answers: What `smoke` gave.

    Raises:
        PublishError: CloudWatch refuses the latency, or is not reached.
    """
    for answer in answers:
        if answer.variant is None:
            continue
        endpoint, region = outputs["sagemaker"]["endpoint"], outputs["sagemaker"]["region"]
        client: CloudWatchClient = boto3.client("cloudwatch", region_name=region)  # pyright: ignore[reportUnknownMemberType] - as below
        try:
            publish_latencies(client, EndpointVariant(endpoint, answer.variant), [answer.latency_ms])
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise PublishError(
                f"{END_TO_END_LATENCY.name} of {endpoint} is not in CloudWatch: {error}; allow "
                f"cloudwatch:PutMetricData on the namespace {END_TO_END_LATENCY.namespace}"
            ) from error


_Reply = tuple[dict[str, Array], str | None]
"""Outputs, and SageMaker's production variant."""
_Infer = Callable[[ModelSpec, dict[str, Array]], _Reply]


def _ways(outputs: dict[str, Any]) -> Iterator[tuple[str, str, _Infer]]:
    """Target, protocol and function of every way into a stack."""
    if sagemaker := outputs.get("sagemaker"):
        client: SageMakerRuntimeClient = boto3.client(  # pyright: ignore[reportUnknownMemberType] - most services have no stubs
            "sagemaker-runtime", region_name=sagemaker["region"]
        )
        yield "sagemaker", "invoke_endpoint", partial(_invoke_endpoint, client, sagemaker["endpoint"])
    for cluster in outputs.get("gke", []):
        yield f"gke {cluster['region']}", "http", partial(_infer_http, cluster["http"])
        yield f"gke {cluster['region']}", "grpc", partial(_infer_grpc, cluster["grpc"])


def _ask(target: str, protocol: str, infer: Callable[[], _Reply]) -> Answer:
    started = time.perf_counter()
    try:
        outputs, variant = infer()
    except (
        botocore.exceptions.BotoCoreError,
        botocore.exceptions.ClientError,
        requests.RequestException,
        InferenceServerException,
    ) as error:
        raise SmokeError(f"{target} does not answer over {protocol}: {error}") from error
    return Answer(target, protocol, (time.perf_counter() - started) * 1000, outputs, variant)


def _invoke_endpoint(
    client: "SageMakerRuntimeClient", endpoint: str, spec: ModelSpec, inputs: dict[str, Array]
) -> _Reply:
    response = client.invoke_endpoint(
        EndpointName=endpoint, ContentType=CONTENT_TYPE, Body=json.dumps(request_body(spec, inputs))
    )
    return _response(json.loads(response["Body"].read())), response["InvokedProductionVariant"]


def _infer_http(url: str, spec: ModelSpec, inputs: dict[str, Array]) -> _Reply:
    response = requests.post(f"{url}/v2/models/{spec.name}/infer", json=request_body(spec, inputs), timeout=_TIMEOUT_S)
    if not response.ok:
        raise requests.HTTPError(f"{response.status_code}: {response.text}", response=response)
    return _response(response.json()), None


def _response(body: dict[str, Any]) -> dict[str, Array]:
    return {out["name"]: np.asarray(out["data"]).reshape(out["shape"]) for out in body["outputs"]}


def _infer_grpc(url: str, spec: ModelSpec, inputs: dict[str, Array]) -> _Reply:
    # The client's own annotations leave most types open.
    client: Any
    with tritonclient.grpc.InferenceServerClient(url) as client:
        tensors: list[Any] = []
        for tensor in spec.inputs:
            value: Any = tritonclient.grpc.InferInput(tensor.name, list(inputs[tensor.name].shape), tensor.dtype)
            value.set_data_from_numpy(inputs[tensor.name])
            tensors.append(value)
        result = client.infer(spec.name, tensors, client_timeout=_TIMEOUT_S)
        return {tensor.name: np.asarray(result.as_numpy(tensor.name)) for tensor in spec.outputs}, None
