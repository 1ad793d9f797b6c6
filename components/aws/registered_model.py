"""A model repository in SageMaker's model registry."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import pulumi
import pulumi_aws as aws
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

if TYPE_CHECKING:
    from types_boto3_sagemaker import SageMakerClient

# https://github.com/triton-inference-server/server/blob/main/src/sagemaker_server.h
_MEDIA_TYPES = ["application/json", "application/vnd.sagemaker-triton.binary+json"]


class RegisteredModelArgs(TypedDict):
    """What is registered, and as a version of what."""

    group: str
    """Name of the model package group: letters, digits and hyphens, at most 63 characters."""
    region: str
    digest: pulumi.Input[str]
    """Digest of the repository: what tells one version from another."""
    variant: str
    """Variant of the model, such as `trt-db`."""
    model_uri: pulumi.Input[str]
    """`s3://…` of the uncompressed repository, without a slash at its end."""
    image: str
    """Image URI of the SageMaker Triton container in the region."""
    environment: Mapping[str, pulumi.Input[str]]
    """The container's environment."""
    instance_type: str
    """On which it was sized, such as `ml.g4dn.xlarge`."""


class RegisteredModel(pulumi.ComponentResource):
    """A group of model packages, and in it one version for each digest that the stack has served.

    A digest that the group has is not registered again, and another one leaves the versions before it: they say what
    can be gone back to. A new version waits for approval; whether it gets that is never looked at here. All versions go
    with the stack, for a group that has some cannot go. The bytes stay where they are.
    """

    package_arn: pulumi.Output[str]
    """ARN of the digest's version; unknown in a preview of one that is yet to be registered."""

    def __init__(self, name: str, args: RegisteredModelArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:aws:RegisteredModel", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        group = aws.sagemaker.ModelPackageGroup(f"{name}-group", model_package_group_name=args["group"], opts=child)
        package = _Package(
            f"{name}-package", {**args, "group": group.model_package_group_name, "package_arn": None}, child
        )
        self.package_arn = package.package_arn
        self.register_outputs({"package_arn": self.package_arn})


class _Registrar(ResourceProvider):
    """Registers. Pulumi stores it with the resource: it holds nothing.

    It runs in a process of its own, which alone imports the clients of AWS.
    """

    serialize_as_secret_always = False

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(props["group"], {**props, "package_arn": _register(props)})

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult({**news, "package_arn": _register(news)})

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Another digest is another version; what else differs is as it was when this one was registered."""
        replaces = [name for name in ("group", "region") if olds[name] != news[name]]
        return DiffResult(changes=bool(replaces) or olds["digest"] != news["digest"], replaces=replaces)

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """A version that somebody deleted is a digest that is not registered; the others are still there to go."""
        if props["package_arn"] in _versions(_client(props["region"]), props["group"]):
            return ReadResult(id_, props)
        return ReadResult(id_, {**props, "digest": "", "package_arn": ""})

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        client = _client(props["region"])
        for arn in _versions(client, props["group"]):
            client.delete_model_package(ModelPackageName=arn)


class _Package(Resource, module="triton-stack", name="ModelPackage"):
    package_arn: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(_Registrar(), name, props, opts)


def _client(region: str) -> "SageMakerClient":
    import boto3  # noqa: PLC0415

    # Pulumi prints the traceback of what a provider raises; of AWS's errors, the text says all.
    sys.tracebacklimit = 0
    session: Any = boto3.Session(region_name=region)
    return session.client("sagemaker")


def _versions(client: "SageMakerClient", group: str) -> list[str]:
    """ARNs of a group's versions."""
    pages = client.get_paginator("list_model_packages").paginate(ModelPackageGroupName=group)
    return [each.get("ModelPackageArn", "") for page in pages for each in page["ModelPackageSummaryList"]]


def _register(props: dict[str, Any]) -> str:
    """The ARN of the digest's version, made unless the group has it: an update may have been interrupted after it was.

    What botocore repeats by itself has the same ClientToken each time, and makes one version.
    """
    client = _client(props["region"])
    for arn in _versions(client, props["group"]):
        version = client.describe_model_package(ModelPackageName=arn)
        if version.get("CustomerMetadataProperties", {}).get("digest") == props["digest"]:
            return arn
    source = {"S3Uri": f"{props['model_uri']}/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    made = client.create_model_package(
        ModelPackageGroupName=props["group"],
        InferenceSpecification={
            "Containers": [
                {
                    "Image": props["image"],
                    "Environment": props["environment"],
                    "ModelDataSource": {"S3DataSource": source},  # pyright: ignore[reportArgumentType]
                }
            ],
            "SupportedRealtimeInferenceInstanceTypes": [props["instance_type"]],
            "SupportedContentTypes": _MEDIA_TYPES,
            "SupportedResponseMIMETypes": _MEDIA_TYPES,
        },
        ModelApprovalStatus="PendingManualApproval",
        CustomerMetadataProperties={"digest": props["digest"], "variant": props["variant"]},
    )
    return made["ModelPackageArn"]
