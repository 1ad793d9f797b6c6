"""Every policy that the AWS side makes, before the two judges of its trade: parliament and checkov.

Both run in environments of their own: parliament needs an old setuptools, checkov pins a hundred packages.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, NoReturn, cast

import pulumi
import pulumi.runtime
import pytest
from tiny_engine import order
from uv import find_uv_bin

from components.aws.endpoint_role import EndpointRole, EndpointRoleArgs
from components.aws.engine_build import EngineBuild
from components.aws.model_store import ModelStore

PARLIAMENT = ["--from=parliament==1.6.4", "--with=setuptools<81", "parliament", "--json"]
CHECKOV = ["--from=checkov==3.3.30", "checkov", "--framework=terraform", "--skip-download", "--output=json"]

IMAGE = "785573368785.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tritonserver:25.09-py3"
PLAIN: EndpointRoleArgs = {
    "endpoint": "triton-prod",
    "bucket_arn": "arn:aws:s3:::triton-models",
    "prefixes": ["models/bert/0", "models/bert/1"],
    "image": IMAGE,
}
OPTIONS: dict[str, Any] = {
    "rollback_alarms": ["triton-prod-errors"],
    "captured_prefix": "captured/triton-prod",
    "kms_key_arn": "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    "vpc": {"subnets": ["subnet-0a1b2c3d"], "security_group_ids": ["sg-0a1b2c3d"]},
}
Policies = dict[tuple[str, str, str], str]
"""(kind of resource, its name, Terraform's name of the property) → the policy."""

POLICIES = {"assumeRolePolicy": "assume_role_policy", "policy": "policy"}
"""Properties that hold a policy, and what Terraform calls them."""


class Recorder(pulumi.runtime.Mocks):
    """Keeps the policies of what is registered."""

    def __init__(self) -> None:
        self.policies: Policies = {}

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        inputs = cast("dict[str, Any]", args.inputs)  # pyright: ignore[reportUnknownMemberType] - a bare dict in the SDK
        kinds = {"Role": "aws_iam_role", "RolePolicy": "aws_iam_role_policy", "BucketPolicy": "aws_s3_bucket_policy"}
        for found in POLICIES.keys() & inputs.keys():
            self.policies[kinds[args.typ.rpartition(":")[2]], args.name, POLICIES[found]] = inputs[found]
        arn = f"arn:aws:s3:::{args.name}"
        return f"{args.name}-id", {"name": args.name, "bucket": args.name, "arn": arn, **inputs}

    def call(self, args: pulumi.runtime.MockCallArgs) -> NoReturn:
        raise AssertionError(args.token)


@pytest.fixture(scope="module")
def policies() -> Policies:
    """Those of a role with no option, with each alone and with all, of the build's role, and of the bucket."""
    recorder = Recorder()
    pulumi.runtime.set_mocks(recorder, preview=False)
    variants = {"plain": {}, "all": OPTIONS} | {option: {option: value} for option, value in OPTIONS.items()}

    @pulumi.runtime.test  # pyright: ignore[reportUnknownMemberType] - untyped in the SDK
    def program() -> None:
        for name, options in variants.items():
            EndpointRole(name, cast("EndpointRoleArgs", {**PLAIN, **options}))
        store = ModelStore("store", {})
        EngineBuild(
            "engine",
            {
                "order": order(),
                "bucket": store.bucket,
                "bucket_arn": PLAIN["bucket_arn"],
                "source_uri": "s3://triton-models/sources/bert",
                "image": IMAGE,
                "region": "us-east-1",
            },
        )

    program()
    assert len(recorder.policies) == 2 * (len(variants) + 1) + 1
    return recorder.policies


def run(*command: str) -> str:
    """What a tool prints; its status says that it has findings."""
    done = subprocess.run(
        [find_uv_bin(), "tool", "run", "--quiet", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def parliament(policies: Policies, folder: Path) -> list[dict[str, Any]]:
    """What it finds in policies of roles; it knows no trust and no bucket policies."""
    for (kind, name, _), policy in policies.items():
        if kind == "aws_iam_role_policy":
            (folder / f"{name}.json").write_text(policy)
    return [json.loads(line) for line in run(*PARLIAMENT, f"--directory={folder}").splitlines()]


def checkov(policies: Policies, folder: Path) -> tuple[list[str], set[str]]:
    """What fails, and which checks were passed."""
    attributes = {"aws_iam_role": "", "aws_iam_role_policy": 'role = "r"\n', "aws_s3_bucket_policy": 'bucket = "b"\n'}
    file = folder / "main.tf"
    file.write_text(
        "".join(
            f'resource "{kind}" "{name}" {{\n{attributes[kind]}{key} = <<POLICY\n{policy}\nPOLICY\n}}\n'
            for (kind, name, key), policy in policies.items()
        )
    )
    report = json.loads(run(*CHECKOV, f"--file={file}"))
    assert report["summary"]["resource_count"] == len(policies)
    failed, passed = report["results"]["failed_checks"], report["results"]["passed_checks"]
    return [f"{each['resource']}: {each['check_name']}" for each in failed], {each["check_id"] for each in passed}


def test_parliament_finds_nothing(policies: Policies, tmp_path: Path) -> None:
    assert parliament(policies, tmp_path) == []


def test_checkov_finds_nothing(policies: Policies, tmp_path: Path) -> None:
    failed, passed = checkov(policies, tmp_path)
    assert failed == []
    # No * for what could be bound, no privilege that grows, no data that leaks, no service that is trusted too widely.
    assert {"CKV_AWS_355", "CKV_AWS_286", "CKV_AWS_288", "CKV_AWS_60", "CKV_AWS_70"} <= passed


def test_both_find_a_planted_fault(tmp_path: Path) -> None:
    statement = {"Effect": "Allow", "Action": ["s3:GetObject", "iam:PassRoles"], "Resource": "*"}
    planted = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    policies = {("aws_iam_role_policy", "planted", "policy"): planted}
    assert [found["issue"] for found in parliament(policies, tmp_path)] == ["UNKNOWN_ACTION"]
    failed, _ = checkov(policies, tmp_path)
    assert any("planted" in each for each in failed)
