"""The model registry as a resource: one version a digest, whose approval is nobody's but the promoter's."""

from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from pulumi_stack import Stack

from localcloud.cloud import LocalCloud

NewStack = Callable[..., Stack]

GROUP = "program-bert"
DIGESTS = ["1" * 64, "2" * 64]


@pytest.fixture(scope="module")
def registry(cloud: LocalCloud) -> Any:
    session: Any = boto3.Session("local", "local", region_name="us-east-1")
    return session.client("sagemaker", endpoint_url=cloud.aws_url)


@pytest.fixture(scope="module")
def stack(cloud: LocalCloud, new_stack: NewStack) -> Stack:
    endpoints = [dict.fromkeys(("sagemaker",), cloud.aws_url)]
    return new_stack("registry", aws__region="us-east-1", aws__endpoints=endpoints, digest=DIGESTS[0])


def versions(registry: Any) -> dict[str, str]:
    """Digest → ARN of its version."""
    listed = registry.list_model_packages(ModelPackageGroupName=GROUP)["ModelPackageSummaryList"]
    arns = [each["ModelPackageArn"] for each in listed]
    found = {arn: registry.describe_model_package(ModelPackageName=arn) for arn in arns}
    by_digest = {each["CustomerMetadataProperties"]["digest"]: arn for arn, each in found.items()}
    assert len(by_digest) == len(arns)
    return by_digest


def test_a_digest_is_registered_as_it_is_served_and_waits_for_approval(stack: Stack, registry: Any) -> None:
    arn = stack.up()["package_arn"]
    assert versions(registry) == {DIGESTS[0]: arn}
    package = registry.describe_model_package(ModelPackageName=arn)
    assert package["ModelApprovalStatus"] == "PendingManualApproval"
    assert package["CustomerMetadataProperties"]["variant"] == "trt-db"
    specification = package["InferenceSpecification"]
    (container,) = specification["Containers"]
    assert container["ModelDataSource"]["S3DataSource"]["S3Uri"] == f"s3://models/models/bert/{DIGESTS[0]}/"
    assert container["Environment"] == {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "bert"}
    assert specification["SupportedRealtimeInferenceInstanceTypes"] == ["ml.g4dn.xlarge"]
    assert "application/vnd.sagemaker-triton.binary+json" in specification["SupportedContentTypes"]
    assert stack.preview() == []


def test_an_approval_is_left_alone_and_another_image_is_no_other_version(stack: Stack, registry: Any) -> None:
    arn = stack.outputs()["package_arn"]
    registry.update_model_package(
        ModelPackageArn=arn,
        ModelApprovalStatus="Approved",
        CustomerMetadataProperties={"digest": DIGESTS[0], "variant": "trt-db"},
    )
    stack.configure(image="785573368785.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tritonserver:25.10-py3")
    stack.refresh()
    assert stack.operations() == {}
    assert versions(registry) == {DIGESTS[0]: arn}
    assert registry.describe_model_package(ModelPackageName=arn)["ModelApprovalStatus"] == "Approved"


def test_another_digest_is_a_new_version_and_the_way_back_is_the_old_one(stack: Stack, registry: Any) -> None:
    first = stack.outputs()["package_arn"]
    stack.configure(digest=DIGESTS[1])
    second = stack.up()["package_arn"]
    assert versions(registry) == {DIGESTS[0]: first, DIGESTS[1]: second}
    stack.configure(digest=DIGESTS[0])
    assert stack.up()["package_arn"] == first
    assert versions(registry) == {DIGESTS[0]: first, DIGESTS[1]: second}


def test_a_version_that_an_interrupted_update_made_is_taken_up(stack: Stack, registry: Any) -> None:
    made = {"digest": "3" * 64, "variant": "trt-db"}
    arn = registry.create_model_package(ModelPackageGroupName=GROUP, CustomerMetadataProperties=made)["ModelPackageArn"]
    stack.configure(digest="3" * 64)
    assert stack.up()["package_arn"] == arn
    assert len(versions(registry)) == 3


def test_a_version_that_somebody_deleted_is_found_missing_and_registered_again(stack: Stack, registry: Any) -> None:
    stack.configure(digest=DIGESTS[0])
    registry.delete_model_package(ModelPackageName=stack.up()["package_arn"])
    assert DIGESTS[0] not in versions(registry)
    stack.refresh()
    assert stack.operations() == {"bert-package": "update"}
    arn = stack.up()["package_arn"]
    assert len(versions(registry)) == 3
    assert versions(registry)[DIGESTS[0]] == arn
    assert arn.endswith("/4")
    assert stack.preview() == []


def test_a_group_goes_with_all_its_versions_and_not_before_them(stack: Stack, registry: Any) -> None:
    with pytest.raises(ClientError, match=r"Cannot delete arn:.*it has 3 model package"):
        registry.delete_model_package_group(ModelPackageGroupName=GROUP)
    stack.destroy()
    assert stack.resources() == {}
    assert GROUP not in str(registry.list_model_package_groups())
    assert versions(registry) == {}
