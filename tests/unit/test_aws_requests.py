"""Every argument of every AWS component reaches a request, and AWS's own models take each of them.

What a component registers becomes the requests that the stand-in for the AWS provider would send. A dynamic resource
is made by its own provider, whose every call is answered here: a new one needs its answers below.
"""

import base64
import functools
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, replace
from io import BytesIO
from typing import Any

import dill
import pytest
from boto3.session import Session
from botocore.awsrequest import AWSResponse
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from program import Registered
from test_components import ARGUMENTS, MORNING, OTHER_PLAN, PLAN, Build, Component, argument_names, build

from capacity.autoscaling import EndpointScalingPolicy, endpoint_scaling
from components.aws.endpoint_scaling import EndpointScaling
from localcloud.plugins import schema
from localcloud.plugins.aws import ROWS, Aws, request, sendable, tag_set
from localcloud.plugins.base import Object, ProviderError, decode, encode

__all__ = ["build"]  # the fixture

REGION = "us-east-1"
DYNAMIC = "pulumi-python:dynamic/"
COMPONENTS = [component for component in ARGUMENTS if component.__module__.startswith("components.aws.")]

# What a dynamic provider is answered, by operation: an error's code, or the response.
ANSWERS: dict[str, str | dict[str, Any]] = {
    "GetObject": "NoSuchKey",
    "PutObject": {},
    "ListProcessingJobs": {"ProcessingJobSummaries": []},
    "ListModelPackages": {"ModelPackageSummaryList": []},
    "CreateModelPackage": {"ModelPackageArn": "arn:aws:sagemaker:us-east-1:123456789012:model-package/a/1"},
    "ListInferenceRecommendationsJobs": {"InferenceRecommendationsJobs": []},
}
# Operations after which a provider only waits for what is made, and reads it.
LAST = ("CreateProcessingJob", "DescribeEndpoint", "CreateInferenceRecommendationsJob")

Request = tuple[str, str, Object]
"""Region, operation and parameters."""


class LastRequestError(Exception):
    """All that a provider sends of its arguments has been sent."""


class ScriptedAws:
    """AWS without a network, for providers that make their own clients: it answers by `ANSWERS` and remembers."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.session = functools.cache(self._session)  # the models of a session's services are read once

    def _session(self, region_name: str = REGION) -> Session:
        session = Session("nobody", "nothing", region_name=region_name)
        session.events.register("before-parameter-build", self._remember)
        session.events.register("before-call", self._answer)  # pyright: ignore[reportArgumentType] - an answer is taken
        return session

    def _remember(self, params: Object, model: Any, context: Any, **_: object) -> None:
        sent = {key: value for key, value in params.items() if key != "ClientToken"}  # botocore's own, and random
        self.requests.append((context["client_region"], model.name, sent))

    def _answer(self, model: Any, **_: object) -> tuple[AWSResponse, dict[str, Any]]:
        if model.name in LAST:
            raise LastRequestError
        assert model.name in ANSWERS, f"a provider calls {model.name}: write what it is answered into ANSWERS"
        answer = ANSWERS[model.name]
        status, body = (404, {"Error": {"Code": answer}}) if isinstance(answer, str) else (200, answer)
        return AWSResponse("", status, {}, None), body  # pyright: ignore[reportArgumentType] - no raw body is read


AWS = ScriptedAws()


def of_provider(inputs: Object) -> list[Request]:
    """What a dynamic resource's provider sends to make it; boto3 itself refuses what the models do not take."""
    provider: Any = dill.loads(base64.b64decode(inputs["__provider"]))  # noqa: S301 # pyright: ignore[reportUnknownMemberType] - made by this process
    AWS.requests.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("boto3.Session", AWS.session)
        patch.setattr("boto3.DEFAULT_SESSION", None)
        patch.setattr("time.time", lambda: 0.0)  # else a lease's end makes any two requests differ
        # A provider sets it for its own process; here it would stop Pulumi's SDK, which looks at its own stack.
        patch.setattr("sys.tracebacklimit", 1000, raising=False)
        with suppress(LastRequestError):
            provider.create({key: value for key, value in inputs.items() if key != "__provider"})
    assert AWS.requests
    return list(AWS.requests)


@functools.cache
def properties_of(token: str) -> schema.Schema:
    return schema.derive("aws", token)


@functools.cache
def service_model(service: str) -> ServiceModel:
    return ServiceModel(Loader().load_service_model(service, "service-2"))


def of_resource(registered: Registered) -> Iterator[Request]:
    """What the stand-in sends to make a resource and to tag it."""
    token, row = registered.typ, ROWS[registered.typ]
    assert [*properties_of(token).problems(registered.inputs)] == []
    named: Object = {row.name: Aws().automatic_name(row, f"{registered.name}-", b"1")} if row.name else {}
    inputs, service = named | registered.inputs, service_model(row.service)
    calls = [(row.create, sendable(token, inputs, REGION))]
    if tags := inputs.get("tags"):
        keys = {key: inputs[key] for key in row.keys} | {"resourceArn": "arn:aws:service:region:account:name"}
        calls.append((row.tagging[0], keys | tag_set(tags)))
    for method, properties in calls:
        operation, parameters = request(token, method, properties, service)
        shape: Any = service.operation_model(operation).input_shape
        report = ParamValidator().validate(parameters, shape)
        assert not report.has_errors(), f"{registered.name}: {report.generate_report()}"
        assert [*outside(parameters, shape, registered.name)] == []
        yield REGION, operation, parameters


def outside(value: Any, shape: Any, path: str) -> Iterator[str]:
    """Values that a model's enumerations and upper limits exclude, which botocore leaves to the service."""
    match shape.type_name:
        case "structure":
            for key, item in value.items():
                yield from outside(item, shape.members[key], f"{path}.{key}")
        case "list":
            for item in value:
                yield from outside(item, shape.member, path)
        case "string" if shape.enum and value not in shape.enum:
            yield f'{path}: "{value}" is none of {", ".join(shape.enum)}'
        case _:
            pass
    size = value if isinstance(value, int | float) else len(value)
    if size > shape.metadata.get("max", size):
        yield f"{path}: {size} is over {shape.metadata['max']}"


def requests(registered: list[Registered]) -> list[str]:
    """All requests that make what was registered, as text in a fixed order."""
    sent: list[Request] = []
    for each in registered:
        plain = replace(each, inputs=decode(encode(each.inputs)))  # as a provider gets them
        sent += of_provider(plain.inputs) if each.typ.startswith(DYNAMIC) else of_resource(plain)
    return sorted(json.dumps(each, sort_keys=True, default=content) for each in sent)


def content(value: object) -> str:
    """What is uploaded, which boto3 has made a file of."""
    assert isinstance(value, BytesIO), value
    return value.getvalue().decode(errors="backslashreplace")


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_s_requests_are_what_aws_takes_and_the_same_every_time(component: Component, build: Build) -> None:
    first = requests(build(component))
    assert first
    assert requests(build(component)) == first


@pytest.mark.parametrize(
    ("component", "key"), [(component, key) for component in COMPONENTS for key in argument_names(component)]
)
def test_every_argument_reaches_a_request(component: Component, key: str, build: Build) -> None:
    before = requests(build(component))
    assert requests(build(component, **{key: ARGUMENTS[component][key][1]})) != before


@pytest.mark.parametrize("field", [each.name for each in fields(EndpointScalingPolicy) if each.name != "description"])
def test_every_part_of_a_scaling_policy_reaches_a_request(field: str, build: Build) -> None:
    policy, other = endpoint_scaling(PLAN), endpoint_scaling(OTHER_PLAN, metric="concurrency", profile=[MORNING])
    value = getattr(policy, field)
    changed = replace(policy, **{field: value + 1 if isinstance(value, int | float) else getattr(other, field)})
    before = requests(build(EndpointScaling, policy=policy))
    assert requests(build(EndpointScaling, policy=changed)) != before


TARGET = {"serviceNamespace": "sagemaker", "scalableDimension": "sagemaker:variant:DesiredInstanceCount"}


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"minCapacityy": 1}, AssertionError, "has no property"),
        ({"resourceId": None}, AssertionError, "required property"),
        ({"scalableDimension": "sagemaker:variant:Instances"}, AssertionError, "is none of"),
        ({"resourceId": "e" * 1601}, AssertionError, "1601 is over 1600"),
        ({"minCapacity": "many"}, AssertionError, "must be of type integer"),
    ],
)
def test_what_aws_would_not_take_is_found(changes: Object, error: type[Exception], said: str) -> None:
    right = TARGET | {"resourceId": "endpoint/a/variant/b", "minCapacity": 1, "maxCapacity": 2}
    resource = Registered("aws:appautoscaling/target:Target", "target", right)
    assert len(list(of_resource(resource))) == 1
    with pytest.raises(error, match=said):
        list(of_resource(Registered(resource.typ, resource.name, right | changes)))


def test_a_property_that_no_request_has_is_found() -> None:
    bucket = Registered("aws:s3/bucket:Bucket", "bucket", {"bucket": "bucket", "accelerationStatus": "Enabled"})
    with pytest.raises(ProviderError, match="does not carry out accelerationStatus"):
        list(of_resource(bucket))


def test_tags_are_sent_by_an_operation_of_their_own() -> None:
    bucket = Registered("aws:s3/bucket:Bucket", "bucket", {"bucket": "bucket", "tags": {"team": "serving"}})
    (_, create, _), (_, tag, parameters) = of_resource(bucket)
    assert (create, tag) == ("CreateBucket", "PutBucketTagging")
    assert parameters["Tagging"] == {"TagSet": [{"Key": "team", "Value": "serving"}]}
