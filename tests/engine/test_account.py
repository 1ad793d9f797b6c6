"""What a user sees of an account that lacks something: one readable error, and an update that then goes on."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from pulumi_stack import PulumiError, Stack

from localcloud.cloud import LocalCloud

IMAGE = "785573368785.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tritonserver:25.09-py3"
NAMES = {
    "iam": ("list_roles", "Roles", "RoleName"),
    "sagemaker models": ("list_models", "Models", "ModelName"),
    "sagemaker configurations": ("list_endpoint_configs", "EndpointConfigs", "EndpointConfigName"),
    "sagemaker endpoints": ("list_endpoints", "Endpoints", "EndpointName"),
}


@pytest.fixture(scope="module")
def stack(cloud: LocalCloud, new_stack: Callable[..., Stack]) -> Iterator[Stack]:
    endpoints = [dict.fromkeys(("s3", "sagemaker", "iam"), cloud.aws_url)]
    yield new_stack("account", aws__region="us-east-1", aws__endpoints=endpoints)
    lacks(cloud)


def lacks(cloud: LocalCloud, **limits: Any) -> None:
    """Take something from the account; without limits, all is there again."""
    (cloud.state / "account.json").write_text(json.dumps(limits))


def error_of(stack: Stack) -> str:
    """The one thing that an `up` which fails says is wrong."""
    with pytest.raises(PulumiError) as caught:
        stack.pulumi("up", "--yes", "--skip-preview")
    said = str(caught.value)
    assert "Traceback" not in said
    (error,) = [line.strip() for line in said.splitlines() if re.match(r"\s*error: (?!update failed)", line)]
    return error


def there_is(cloud: LocalCloud) -> dict[str, int]:
    """How many of each kind the stack has left in the account."""
    session: Any = boto3.Session("local", "local", region_name="us-east-1")
    found: dict[str, int] = {}
    for kind, (operation, member, name) in NAMES.items():
        listed = getattr(session.client(kind.split()[0], endpoint_url=cloud.aws_url), operation)()[member]
        prefixes = ("role-", "model-", "configuration-", "account-")
        found[kind] = len([each for each in listed if each[name].startswith(prefixes)])
    return found


def recovers(cloud: LocalCloud, stack: Stack) -> None:
    """The next update leaves one of each, and an endpoint that is in service from them."""
    stack.pulumi("up", "--yes", "--skip-preview")
    assert there_is(cloud) == dict.fromkeys(NAMES, 1)
    assert not [name for name, each in stack.resources().items() if each.get("delete")]


def test_an_account_that_may_not_make_the_role(cloud: LocalCloud, stack: Stack) -> None:
    lacks(cloud, denied=["iam:CreateRole"])
    error = error_of(stack)
    assert re.search(r"not authorized to perform: iam:CreateRole on resource: arn:aws:iam::\d+:role/role-role-", error)
    assert there_is(cloud) == dict.fromkeys(NAMES, 0)


def test_an_account_that_may_by_now_and_has_no_quota(cloud: LocalCloud, stack: Stack) -> None:
    lacks(cloud, quotas={"ml.g4dn.xlarge": 0})
    error = error_of(stack)
    assert "'ml.g4dn.xlarge for endpoint usage' is 0 Instances" in error
    assert "request an increase for this quota" in error
    assert there_is(cloud) == {**dict.fromkeys(NAMES, 1), "sagemaker endpoints": 0}
    lacks(cloud)
    recovers(cloud, stack)


def test_a_quota_that_has_no_room_for_the_old_fleet_beside_the_new(cloud: LocalCloud, stack: Stack) -> None:
    lacks(cloud, quotas={"ml.g4dn.xlarge": 4})
    stack.configure(count=3)
    text = "is 4 Instances, with current utilization of 2 Instances and a request delta of 3 Instances"
    assert text in error_of(stack)
    lacks(cloud)
    recovers(cloud, stack)


def test_an_image_version_that_is_not_there(cloud: LocalCloud, stack: Stack) -> None:
    missing = IMAGE.replace("25.09", "99.01")
    lacks(cloud, missing_images=[missing])
    stack.configure(image=missing)
    assert f"Requested image {missing} not found." in error_of(stack)
    lacks(cloud)
    recovers(cloud, stack)


def test_an_image_of_another_region(cloud: LocalCloud, stack: Stack) -> None:
    other = IMAGE.replace("us-east-1", "eu-west-1")
    stack.configure(image=other)
    assert f'Region of "{other}" does not match expected region of us-east-1.' in error_of(stack)
    stack.configure(image=None)
    recovers(cloud, stack)


def test_a_model_store_of_another_region(cloud: LocalCloud, stack: Stack) -> None:
    stack.configure(bucket_region="eu-west-1")
    assert re.search(r"Could not access model data at s3://store-.* is located in us-east-1\.", error_of(stack))
    stack.configure(bucket_region=None)
    recovers(cloud, stack)
    assert stack.preview() == []
