"""What SageMaker refuses and moto accepts.

The words are AWS's where they are known from the report of someone who got them, which is then named.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moto.cloudwatch.models import cloudwatch_backends
from moto.iam.models import iam_backends
from moto.s3.models import s3_backends
from moto.sagemaker.exceptions import SagemakerClientError, ValidationError
from moto.sagemaker.models import FakeEndpoint, SageMakerModelBackend, sagemaker_backends

from localcloud.account import Account

Request = Mapping[str, Any]

_ECR_IMAGE = re.compile(r"\d{12}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/.+")
_S3_URI = re.compile(r"s3://(?P<bucket>[^/]+)/?(?P<prefix>.*)")

# With disks of their own, which take neither a size nor a key; of those that this stack may name.
_LOCAL_DISKS = ("ml.g4dn.", "ml.g5.", "ml.g6.")


class QuotaError(SagemakerClientError):
    """More than the account's quota."""

    code = "ResourceLimitExceeded"


@dataclass(frozen=True)
class Judge:
    """Judges the requests to one region of an account."""

    account_id: str
    region: str
    account: Account
    loads: bool
    """Whether endpoints load model data, which then must be there."""

    def role(self, arn: str | None) -> None:
        """Refuse a role that is not there or does not trust SageMaker; None is for the service to judge.

        https://github.com/awslabs/predictive-maintenance-using-machine-learning/issues/3
        """
        roles = {role.arn: role for role in iam_backends[self.account_id]["aws"].get_roles()}
        if arn and (arn not in roles or not _trusts_sagemaker(roles[arn].assume_role_policy_document)):
            raise ValidationError(
                f"Could not assume role {arn}. Please ensure that the role exists and allows principal "
                "'sagemaker.amazonaws.com' to assume the role."
            )

    def model(self, request: Request) -> None:
        """Refuse a model whose role, image or data SageMaker cannot have."""
        role = request.get("ExecutionRoleArn")
        self.role(role)
        for container in filter(None, (request.get("PrimaryContainer"), *(request.get("Containers") or ()))):
            self._image(container.get("Image", ""))
            uri = container.get("ModelDataSource", {}).get("S3DataSource", {}).get("S3Uri")
            if uri:
                self._data(uri, role)

    def _image(self, image: str) -> None:
        """What is no URI of ECR is not looked at."""
        match = _ECR_IMAGE.fullmatch(image)
        if match and match["region"] != self.region:  # https://github.com/ed-donner/alex/issues/30
            raise ValidationError(
                f'Region of "{image}" does not match expected region of {self.region}. '
                "Cross region ECR image pulls are not allowed."
            )
        if image in self.account.missing_images:  # github.com/aws-samples/easy-amazon-sagemaker-deployments/issues/4
            raise ValidationError(f"Requested image {image} not found.")

    def _data(self, uri: str, role: str | None) -> None:
        match = _S3_URI.fullmatch(uri)
        bucket = s3_backends[self.account_id]["aws"].buckets.get(match["bucket"]) if match else None
        if bucket and bucket.region_name != self.region:
            raise ValidationError(
                f'Could not access model data at {uri}. Please ensure that the role "{role}" exists and that its trust '
                'relationship policy allows the action "sts:AssumeRole" for the service principal '
                '"sagemaker.amazonaws.com". Also ensure that the role has "s3:GetObject" permissions and that the '
                f"object is located in {self.region}."
            )
        keys: list[str] = list(bucket.keys) if bucket else []
        there = match and any(key.startswith(match["prefix"]) for key in keys)
        if self.loads and not there:  # https://github.com/aws-ia/ecs-blueprints/issues/223
            raise ValidationError(f"Could not find model data at {uri}.")

    def endpoint_config(self, request: Request) -> None:
        """Refuse a size or a key for disks that take none.

        https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateEndpointConfig.html, of KmsKeyId. The words
        on a size are from https://github.com/autogluon/autogluon-cloud/pull/50; on a key they are not known here.
        """
        for variant in request["ProductionVariants"]:
            wrong = "VolumeSize" if variant.get("VolumeSizeInGB") else "KmsKeyId" if request.get("KmsKeyId") else None
            if wrong and variant.get("InstanceType", "").startswith(_LOCAL_DISKS):
                raise ValidationError(
                    f"{wrong} parameter is not allowed for the selected Instance type {variant['InstanceType']}."
                )

    def deployment(self, request: Request) -> None:
        """Refuse a deployment that its account has no room for, or that nothing could roll back.

        https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-exclusions.html; AWS's own words for
        these two are not known here.
        """
        deployment: Request = request.get("DeploymentConfig") or {}
        config = self._sagemaker.describe_endpoint_config(request["EndpointConfigName"])
        variants: list[dict[str, Any]] = config["ProductionVariants"]
        rolling = deployment.get("RollingUpdatePolicy")
        if rolling and len(variants) > 1:
            raise ValidationError(
                f"Rolling deployment is not supported for multi-variant endpoints: {config['EndpointConfigName']} has "
                f"{len(variants)} variants."
            )
        alarms = cloudwatch_backends[self.account_id][self.region].alarms
        for alarm in deployment.get("AutoRollbackConfiguration", {}).get("Alarms", []):
            if alarm["AlarmName"] not in alarms:
                raise ValidationError(
                    f"Could not find CloudWatch alarm {alarm['AlarmName']} of AutoRollbackConfiguration."
                )
        self._quota(variants, rolling)

    def _quota(self, variants: list[dict[str, Any]], rolling: Request | None) -> None:
        """Refuse more instances than the quota; what is updated keeps its own until the new ones serve."""
        wanted = _by_type((each.get("InstanceType"), each.get("InitialInstanceCount", 0)) for each in variants)
        if rolling:
            wanted = {kind: _batch(count, rolling["MaximumBatchSize"]) for kind, count in wanted.items()}
        used = _by_type(each for endpoint in self._sagemaker.endpoints.values() for each in self._instances(endpoint))
        for kind, count in wanted.items():
            limit, now = self.account.quotas.get(kind), used.get(kind, 0)
            if limit is not None and now + count > limit:
                # https://github.com/aws-samples/aws-genai-llm-chatbot/issues/244
                raise QuotaError(
                    f"The account-level service limit '{kind} for endpoint usage' is {limit} Instances, with current "
                    f"utilization of {now} Instances and a request delta of {count} Instances. Please use AWS Service "
                    "Quotas to request an increase for this quota. If AWS Service Quotas is not available, contact AWS "
                    "support to request an increase for this quota."
                )

    def _instances(self, endpoint: FakeEndpoint) -> Iterator[tuple[str | None, int]]:
        """What each variant of an endpoint runs on; of one that failed, nothing runs."""
        if endpoint.endpoint_status == "Failed":
            return
        config = self._sagemaker.endpoint_configs[endpoint.endpoint_config_name]
        kinds = {each["VariantName"]: each.get("InstanceType") for each in config.production_variants}
        for variant in endpoint.production_variants:
            yield kinds[variant["VariantName"]], variant.get("CurrentInstanceCount", 0)

    def config_is_unused(self, name: str) -> None:
        """Refuse to delete the configuration of an endpoint.

        AWS deletes it, and asks not to: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DeleteEndpointConfig.html.
        """
        for endpoint in self._sagemaker.endpoints.values():
            if endpoint.endpoint_config_name == name:
                raise ValidationError(
                    f"The endpoint {endpoint.endpoint_name} runs the configuration {name}. AWS would delete it all the "
                    "same and leave the endpoint without; the local AWS is stricter: whatever does that is mistaken."
                )

    def model_is_unused(self, name: str) -> None:
        """Refuse to delete the model of an endpoint, from which AWS could start no further instance."""
        for endpoint in self._sagemaker.endpoints.values():
            config = self._sagemaker.endpoint_configs[endpoint.endpoint_config_name]
            if name in [each.get("ModelName") for each in config.production_variants]:
                raise ValidationError(
                    f"The endpoint {endpoint.endpoint_name} serves the model {name}. AWS would delete it all the same, "
                    "and start no further instance; the local AWS is stricter: whatever does that is mistaken."
                )

    @property
    def _sagemaker(self) -> SageMakerModelBackend:
        return sagemaker_backends[self.account_id][self.region]


def _trusts_sagemaker(policy: str) -> bool:
    for statement in json.loads(policy)["Statement"]:
        service = statement.get("Principal", {}).get("Service", [])
        if statement["Effect"] == "Allow" and "sagemaker.amazonaws.com" in service:
            return True
    return False


def _by_type(instances: Iterator[tuple[str | None, int]]) -> dict[str, int]:
    """Sum up by instance type; what is serverless has none."""
    total: dict[str, int] = {}
    for kind, count in instances:
        if kind:
            total[kind] = total.get(kind, 0) + count
    return total


def _batch(count: int, size: Request) -> int:
    """How many of ``count`` instances a rolling update starts at once."""
    return min(count, size["Value"] if size["Type"] == "INSTANCE_COUNT" else -(-count * size["Value"] // 100))
