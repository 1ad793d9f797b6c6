"""What SageMaker acts as, and the statements that every container of its needs."""

from collections.abc import Sequence

import pulumi
import pulumi_aws as aws

Statement = dict[str, object]
"""One statement of an IAM policy."""


def sagemaker_role(name: str, statements: Sequence[Statement], opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
    """The ARN of a role that SageMaker assumes, once its policy is attached.

    Its trust names the service and no source account: that account is known only by asking AWS, which a preview does
    not. Who names the role in a request must be allowed to pass it, and a role is passed within its own account only:
    https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_use_passrole.html.

    Args:
        name: Prefix of the role and of its policy.
        statements: All that it may do.
        opts: Of both.
    """
    trust: Statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sagemaker.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }
    role = aws.iam.Role(f"{name}-role", assume_role_policy=_policy([trust]), opts=opts)
    policy = aws.iam.RolePolicy(f"{name}-policy", role=role.name, policy=_policy(statements), opts=opts)
    return pulumi.Output.all(role.arn, policy.id).apply(lambda values: str(values[0]))


def container_statements(image: str, log_group: str) -> list[Statement]:
    """Pull one image, and write to one group of logs.

    Args:
        image: `<account>.dkr.ecr.<region>.amazonaws.com/<repository>:<tag>`.
        log_group: Such as `/aws/sagemaker/Endpoints/triton`.
    """
    account, (_, repository), region = image.partition(".")[0], image.split("/", 1), image_region(image)
    return [
        {
            "Effect": "Allow",
            "Action": ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            "Resource": f"arn:aws:ecr:{region}:{account}:repository/{repository.partition(':')[0]}",
        },
        # The action knows no resource: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonelasticcontainerregistry.html
        {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
        {
            "Effect": "Allow",
            "Action": ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
            # The group, and after the last colon its streams. Any account is this one: no role writes to another's.
            # https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/iam-access-control-overview-cwl.html
            "Resource": f"arn:aws:logs:{region}:*:log-group:{log_group}:*",
        },
    ]


def key_statements(kms_key_arn: pulumi.Input[str] | None, region: str, *, writes: bool) -> list[Statement]:
    """S3 alone may use the key as this role: to read objects and, where it does, to write them.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html: a write in parts needs both.

    Args:
        kms_key_arn: The key of the bucket; None where it has S3's own.
        region: Of the bucket.
        writes: Whether the container writes to it.
    """
    if kms_key_arn is None:
        return []
    actions = ["kms:Decrypt", *(["kms:GenerateDataKey"] if writes else [])]
    through_s3 = {"StringEquals": {"kms:ViaService": f"s3.{region}.amazonaws.com"}}
    return [{"Effect": "Allow", "Action": actions, "Resource": kms_key_arn, "Condition": through_s3}]


def image_region(image: str) -> str:
    """The region of `<account>.dkr.ecr.<region>.amazonaws.com/…`."""
    return image.split(".")[3]


def _policy(statements: Sequence[Statement]) -> pulumi.Output[str]:
    return pulumi.Output.json_dumps({"Version": "2012-10-17", "Statement": list(statements)}, sort_keys=True)
