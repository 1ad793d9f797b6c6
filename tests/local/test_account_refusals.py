"""What the emulated AWS refuses, as AWS does: an account that lacks something, and requests that are mistaken."""

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from test_aws_emulator import BUCKET, ROLE, Aws, emulator, refused
from tiny_model import prefix_of, write_repository

IMAGE = "785573368785.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tritonserver:25.09-py3"
INVALID = "ValidationException"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Generator[Aws]:
    with emulator(tmp_path_factory.mktemp("account"), "--no-triton") as running:
        running.sagemaker.create_model(**model("shared"))
        yield running


Lacks = Callable[..., None]


@pytest.fixture
def lacks(aws: Aws) -> Generator[Lacks]:
    """Take something from the account, until the test ends."""
    file = aws.state / "account.json"

    def write(**limits: Any) -> None:
        file.write_text(json.dumps(limits))

    yield write
    file.unlink(missing_ok=True)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return request.node.name.replace("_", "-")[:60].strip("-")


def model(name: str, *, image: str = IMAGE, uri: str = f"s3://{BUCKET}/any/", role: str = ROLE) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "CompressionType": "None", "S3Uri": uri}
    container = {"Image": image, "ModelDataSource": {"S3DataSource": source}}
    return {"ModelName": name, "ExecutionRoleArn": role, "PrimaryContainer": container}


def configure(aws: Aws, name: str, *counts: int) -> None:
    """A configuration with a variant of each count."""
    common = {"ModelName": "shared", "InstanceType": "ml.g4dn.xlarge"}
    variants = [{"VariantName": f"v{i}", "InitialInstanceCount": count, **common} for i, count in enumerate(counts)]
    aws.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=variants)


def endpoint(aws: Aws, name: str, *counts: int) -> None:
    """An endpoint and its configuration, both of one name."""
    configure(aws, name, *counts)
    aws.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)


# --- what the account lacks -------------------------------------------------------------------------------------------


def test_more_instances_than_the_quota_are_refused_with_what_is_used_and_what_is_asked_for(
    aws: Aws, lacks: Lacks, name: str
) -> None:
    endpoint(aws, name, 2)
    configure(aws, f"{name}-2", 3)
    lacks(quotas={"ml.g4dn.xlarge": 4})
    text = (
        "service limit 'ml.g4dn.xlarge for endpoint usage' is 4 Instances, with current utilization of 2 Instances and "
        "a request delta of 3 Instances"
    )
    create, update = aws.sagemaker.create_endpoint, aws.sagemaker.update_endpoint
    refused("ResourceLimitExceeded", text, create, EndpointName=f"{name}-2", EndpointConfigName=f"{name}-2")
    # An update has both fleets for a while.
    refused("ResourceLimitExceeded", text, update, EndpointName=name, EndpointConfigName=f"{name}-2")
    assert aws.sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"] == name
    lacks(quotas={"ml.g4dn.xlarge": 5, "ml.g4dn.2xlarge": 0})
    update(EndpointName=name, EndpointConfigName=f"{name}-2")
    aws.sagemaker.delete_endpoint(EndpointName=name)


def test_a_rolling_update_needs_room_for_one_batch_only(aws: Aws, lacks: Lacks, name: str) -> None:
    endpoint(aws, name, 4)
    configure(aws, f"{name}-2", 4)
    lacks(quotas={"ml.g4dn.xlarge": 5})
    both = {"EndpointName": name, "EndpointConfigName": f"{name}-2"}

    def rolling(percent: int) -> dict[str, Any]:
        size = {"Type": "CAPACITY_PERCENT", "Value": percent}
        return {"RollingUpdatePolicy": {"MaximumBatchSize": size, "WaitIntervalInSeconds": 60}}

    update = aws.sagemaker.update_endpoint
    refused("ResourceLimitExceeded", "request delta of 2", update, **both, DeploymentConfig=rolling(50))
    update(**both, DeploymentConfig=rolling(25))
    aws.sagemaker.delete_endpoint(EndpointName=name)


def test_an_image_that_is_not_there_or_of_another_region_is_refused(aws: Aws, lacks: Lacks, name: str) -> None:
    create = aws.sagemaker.create_model
    lacks(missing_images=[IMAGE])
    refused(INVALID, f"Requested image {IMAGE} not found", create, **model(name))
    lacks()
    other = IMAGE.replace("us-east-1", "eu-west-1")
    text = f'Region of "{other}" does not match expected region of us-east-1. Cross region ECR image pulls are not'
    refused(INVALID, text, create, **model(name, image=other))
    create(**model(name))


def test_who_may_not_make_a_role_is_told_which_action_on_what(aws: Aws, lacks: Lacks, name: str) -> None:
    iam = aws.client("iam")
    lacks(denied=["iam:CreateRole", "sagemaker:CreateModel"])
    text = (
        rf"User: \S+ is not authorized to perform: iam:CreateRole on resource: arn:aws:iam::123456789012:role/{name} "
        "because no identity-based policy allows the iam:CreateRole action"
    )
    refused("AccessDenied", text, iam.create_role, RoleName=name, AssumeRolePolicyDocument="{}")
    refused("AccessDeniedException", "perform: sagemaker:CreateModel on", aws.sagemaker.create_model, **model(name))
    iam.list_roles()
    lacks()
    iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")


# --- what is mistaken -------------------------------------------------------------------------------------------------


def test_a_role_that_is_not_there_or_trusts_another_is_refused(aws: Aws, name: str) -> None:
    lambdas = {"Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}}]}
    role = aws.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(lambdas))["Role"]["Arn"]
    for wrong in (role, f"{role}-none"):
        text = f"Could not assume role {wrong}. Please ensure that the role exists and allows principal"
        refused(INVALID, text, aws.sagemaker.create_model, **model(name, role=wrong))


def test_model_data_of_another_region_is_refused(aws: Aws, name: str) -> None:
    place = {"LocationConstraint": "eu-west-1"}
    aws.s3.create_bucket(Bucket=name, CreateBucketConfiguration=place)
    text = "Could not access model data at .*object is located in us-east-1"
    refused(INVALID, text, aws.sagemaker.create_model, **model(name, uri=f"s3://{name}/models/"))


def test_model_data_that_is_not_there_is_refused_where_a_triton_would_load_it(tmp_path: Path, name: str) -> None:
    with emulator(tmp_path) as aws:
        manifest = write_repository(tmp_path / "a")  # and not uploaded
        uri = f"s3://{BUCKET}/{prefix_of(manifest)}/"
        refused(INVALID, f"Could not find model data at {uri}", aws.sagemaker.create_model, **model(name, uri=uri))


@pytest.mark.parametrize(
    ("of_variant", "of_config", "parameter"),
    [({"VolumeSizeInGB": 30}, {}, "VolumeSize"), ({}, {"KmsKeyId": "key"}, "KmsKeyId")],
)
def test_disks_of_an_instance_s_own_take_neither_a_size_nor_a_key(
    aws: Aws, of_variant: dict[str, Any], of_config: dict[str, Any], parameter: str
) -> None:
    def arguments(kind: str) -> dict[str, Any]:
        variant = {
            "VariantName": "v",
            "ModelName": "shared",
            "InstanceType": kind,
            "InitialInstanceCount": 1,
            **of_variant,
        }
        return {"EndpointConfigName": parameter, "ProductionVariants": [variant], **of_config}

    text = f"{parameter} parameter is not allowed for the selected Instance type ml.g4dn.xlarge"
    refused(INVALID, text, aws.sagemaker.create_endpoint_config, **arguments("ml.g4dn.xlarge"))
    aws.sagemaker.create_endpoint_config(**arguments("ml.c5.xlarge"))


def test_a_rollback_alarm_that_is_not_there_is_refused(aws: Aws, name: str) -> None:
    endpoint(aws, name, 1)
    alarms = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "latency"}, {"AlarmName": "nosuch"}]}}
    both = {"EndpointName": name, "EndpointConfigName": name}
    refused(INVALID, "alarm nosuch", aws.sagemaker.update_endpoint, **both, DeploymentConfig=alarms)
    aws.sagemaker.delete_endpoint(EndpointName=name)


def test_several_variants_cannot_be_updated_in_batches(aws: Aws, name: str) -> None:
    endpoint(aws, name, 1, 1)
    size = {"Type": "INSTANCE_COUNT", "Value": 1}
    rolling = {"RollingUpdatePolicy": {"MaximumBatchSize": size, "WaitIntervalInSeconds": 60}}
    both = {"EndpointName": name, "EndpointConfigName": name}
    refused(INVALID, "not supported for multi-variant", aws.sagemaker.update_endpoint, **both, DeploymentConfig=rolling)
    aws.sagemaker.delete_endpoint(EndpointName=name)


def test_what_an_endpoint_runs_cannot_be_deleted_before_it(aws: Aws, name: str) -> None:
    endpoint(aws, name, 1)
    delete_config, delete_model = aws.sagemaker.delete_endpoint_config, aws.sagemaker.delete_model
    refused(INVALID, "stricter", delete_config, EndpointConfigName=name)
    refused(INVALID, "stricter", delete_model, ModelName="shared")
    aws.sagemaker.delete_endpoint(EndpointName=name)
    delete_config(EndpointConfigName=name)


# --- the model registry -----------------------------------------------------------------------------------------------


def test_a_repeated_registration_is_one_version_and_a_number_is_given_once(aws: Aws, name: str) -> None:
    sagemaker = aws.sagemaker
    sagemaker.create_model_package_group(ModelPackageGroupName=name)
    refused(INVALID, "already exists", sagemaker.create_model_package_group, ModelPackageGroupName=name)

    def register(token: str) -> str:
        return sagemaker.create_model_package(ModelPackageGroupName=name, ClientToken=token)["ModelPackageArn"]

    first, second = register("one"), register("two")
    assert register("one") == first
    sagemaker.delete_model_package(ModelPackageName=first)
    assert register("three").endswith("/3")
    listed = sagemaker.list_model_packages(ModelPackageGroupName=name)["ModelPackageSummaryList"]
    assert [each["ModelPackageArn"].rpartition("/")[2] for each in listed] == ["2", "3"]
    refused("ConflictException", "has 2 model", sagemaker.delete_model_package_group, ModelPackageGroupName=name)
    for arn in (second, f"{second.rpartition('/')[0]}/3"):
        sagemaker.delete_model_package(ModelPackageName=arn)
    sagemaker.delete_model_package_group(ModelPackageGroupName=name)
    refused(INVALID, "does not exist", sagemaker.describe_model_package_group, ModelPackageGroupName=name)
