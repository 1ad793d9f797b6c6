"""What a SageMaker endpoint may do."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from components.aws.sagemaker_role import Statement, container_statements, image_region, key_statements, sagemaker_role


class EndpointRoleArgs(TypedDict):
    """What the role may reach."""

    endpoint: str
    """The endpoint's own name: the role writes to its group of logs and to no other."""
    bucket_arn: pulumi.Input[str]
    prefixes: Sequence[pulumi.Input[str]]
    """Key prefix of each model repository that the endpoint serves, without a slash at its end; one or more."""
    image: str
    """Image URI of the Triton container: `<account>.dkr.ecr.<region>.amazonaws.com/<repository>:<tag>`."""
    rollback_alarms: NotRequired[Sequence[pulumi.Input[str]]]
    """Names of the alarms that roll an update back: SageMaker asks for their state as this role."""
    captured_prefix: NotRequired[pulumi.Input[str]]
    """Key prefix of captured data in the same bucket, without a slash at its end; left out, it may write nowhere."""
    kms_key_arn: NotRequired[pulumi.Input[str]]
    """The key that the bucket's objects are encrypted with; left out where S3's own key is."""
    vpc: NotRequired[aws.sagemaker.ModelVpcConfigArgsDict]
    """The model's subnets and security groups; left out, it may make no network interface."""


class EndpointRole(pulumi.ComponentResource):
    """An execution role for one endpoint: its models, its image, its logs and its metrics.

    Where asked for, its alarms, its captured data, its key and its network. It grants nothing else: no other digest, no
    other repository, no other write. `kms:CreateGrant` is left out on purpose: it is for the volume of an instance, and
    g4dn has local disks that SageMaker encrypts by itself.
    """

    arn: pulumi.Output[str]
    """ARN of the role, once its policy is attached."""

    def __init__(self, name: str, args: EndpointRoleArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:aws:EndpointRole", name, {}, opts)
        self.arn = sagemaker_role(name, _statements(args), pulumi.ResourceOptions(parent=self))
        self.register_outputs({"arn": self.arn})


def _statements(args: EndpointRoleArgs) -> list[Statement]:
    """The statements that a Triton endpoint needs.

    Actions: https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html#sagemaker-roles-createmodel-perms
    """
    region = image_region(args["image"])
    return [
        *_model_statements(args),
        *container_statements(args["image"], f"/aws/sagemaker/Endpoints/{args['endpoint']}"),
        # The action knows no resource; the condition binds it to SageMaker's own metrics.
        # https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazoncloudwatch.html
        {
            "Effect": "Allow",
            "Action": "cloudwatch:PutMetricData",
            "Resource": "*",
            "Condition": {"StringLike": {"cloudwatch:namespace": ["AWS/SageMaker", "/aws/sagemaker/*"]}},
        },
        *_alarm_statements(args.get("rollback_alarms", ()), region),
        *_capture_statements(args),
        *key_statements(args.get("kms_key_arn"), region, writes="captured_prefix" in args),
        *_network_statements(args.get("vpc"), region),
    ]


def _model_statements(args: EndpointRoleArgs) -> list[Statement]:
    keys = [pulumi.Output.concat(prefix, "/*") for prefix in args["prefixes"]]
    return [
        {
            "Effect": "Allow",
            "Action": "s3:GetObject",
            "Resource": [pulumi.Output.concat(args["bucket_arn"], "/", key) for key in keys],
        },
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": args["bucket_arn"],
            "Condition": {"StringLike": {"s3:prefix": keys}},
        },
    ]


def _alarm_statements(names: Sequence[pulumi.Input[str]], region: str) -> list[Statement]:
    """https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-configuration.html asks for it."""
    alarms = [pulumi.Output.concat(f"arn:aws:cloudwatch:{region}:*:alarm:", name) for name in names]
    return [{"Effect": "Allow", "Action": "cloudwatch:DescribeAlarms", "Resource": alarms}] if alarms else []


def _capture_statements(args: EndpointRoleArgs) -> list[Statement]:
    if "captured_prefix" not in args:
        return []
    keys = pulumi.Output.concat(args["bucket_arn"], "/", args["captured_prefix"], "/*")
    return [{"Effect": "Allow", "Action": "s3:PutObject", "Resource": keys}]


def _network_statements(vpc: aws.sagemaker.ModelVpcConfigArgsDict | None, region: str) -> list[Statement]:
    """What SageMaker needs to put a network interface into the model's subnets, and to remove it.

    Resources and conditions: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
    """
    if vpc is None:
        return []
    interfaces = f"arn:aws:ec2:{region}:*:network-interface/*"

    def arns(kind: str, ids: pulumi.Input[Sequence[pulumi.Input[str]]]) -> pulumi.Output[list[str]]:
        return pulumi.Output.from_input(ids).apply(
            lambda each: [f"arn:aws:ec2:{region}:*:{kind}/{id_}" for id_ in each]
        )

    subnets, groups = arns("subnet", vpc["subnets"]), arns("security-group", vpc["security_group_ids"])
    touched = pulumi.Output.all(subnets, groups).apply(lambda found: [interfaces, *found[0], *found[1]])
    return [
        {"Effect": "Allow", "Action": "ec2:CreateNetworkInterface", "Resource": touched},
        {
            "Effect": "Allow",
            "Action": ["ec2:CreateNetworkInterfacePermission", "ec2:DeleteNetworkInterface"],
            "Resource": interfaces,
            "Condition": {"ArnLike": {"ec2:Subnet": subnets}},
        },
        # A request names the permission, from which EC2 may not know the subnet.
        {"Effect": "Allow", "Action": "ec2:DeleteNetworkInterfacePermission", "Resource": interfaces},
        # These know no resource.
        {
            "Effect": "Allow",
            "Action": [
                "ec2:DescribeDhcpOptions",
                "ec2:DescribeNetworkInterfaces",
                "ec2:DescribeSecurityGroups",
                "ec2:DescribeSubnets",
                "ec2:DescribeVpcs",
            ],
            "Resource": "*",
        },
    ]
