"""Whether an endpoint serves what it was told to."""

import sys
from typing import TYPE_CHECKING, Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider, UpdateResult

if TYPE_CHECKING:
    from types_boto3_sagemaker import SageMakerClient


class NotServedError(RuntimeError):
    """An endpoint that serves something else than it was told to."""


class _Provider(ResourceProvider):
    """Pulumi stores it with the resource: it holds nothing, and what it needs is imported as it runs."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        _check(props)
        return CreateResult(props["endpoint_name"], props)

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=any(olds[key] != news[key] for key in ("endpoint_name", "configuration_name")))

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        _check(news)
        return UpdateResult(news)


class ServedConfiguration(Resource, module="triton-stack", name="ServedConfiguration"):
    """Fails the update when SageMaker went back to the old configuration.

    The AWS provider waits until an endpoint is in service, which it also is after a rollback: the update would count
    as done, and Pulumi would then delete the configuration and the model that are still serving. What fails here
    keeps them, and the next update tries again. It changes nothing.

    Args:
        name: Logical name.
        region: The endpoint's.
        endpoint_name: Known once the endpoint's update has ended.
        configuration_name: What must be served.
        opts: Pulumi's.
    """

    def __init__(
        self,
        name: str,
        *,
        region: str,
        endpoint_name: pulumi.Input[str],
        configuration_name: pulumi.Input[str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        props = {"region": region, "endpoint_name": endpoint_name, "configuration_name": configuration_name}
        super().__init__(_Provider(), name, props, opts)


def _check(props: dict[str, Any]) -> None:
    import boto3  # noqa: PLC0415

    name, wanted = props["endpoint_name"], props["configuration_name"]
    # Pulumi prints the traceback of what a provider raises; here the text says all.
    sys.tracebacklimit = 0
    client: SageMakerClient = boto3.client(  # pyright: ignore[reportUnknownMemberType] - most services have no stubs
        "sagemaker", region_name=props["region"]
    )
    endpoint = client.describe_endpoint(EndpointName=name)
    if endpoint["EndpointConfigName"] != wanted:
        reason = endpoint.get("FailureReason", "SageMaker gives no reason; see the endpoint's events and alarms")
        raise NotServedError(
            f"the endpoint {name} was rolled back and still serves {endpoint['EndpointConfigName']}: {reason}"
        )
