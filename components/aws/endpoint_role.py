"""What a SageMaker endpoint may do."""

from typing import TypedDict

import pulumi
import pulumi_aws as aws


class EndpointRoleArgs(TypedDict):
    """What the role may reach."""

    endpoint: str
    """Logical name of the endpoint: the role writes only to log groups whose endpoint name starts with it."""
    bucket_arn: pulumi.Input[str]
    prefix: pulumi.Input[str]
    """Key prefix of the one model repository, without a slash at its end."""
    image: str
    """Image URI of the Triton container: `<account>.dkr.ecr.<region>.amazonaws.com/<repository>:<tag>`."""


class EndpointRole(pulumi.ComponentResource):
    """An execution role for one endpoint: its model, its image, its logs and its metrics.

    It grants nothing else: no other digest, no other repository, no write to any bucket.
    """

    arn: pulumi.Output[str]
    """ARN of the role, once its policy is attached."""

    def __init__(self, name: str, args: EndpointRoleArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:aws:EndpointRole", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        role = aws.iam.Role(
            f"{name}-role",
            assume_role_policy=pulumi.Output.json_dumps(
                _policy(
                    {
                        "Effect": "Allow",
                        "Principal": {"Service": "sagemaker.amazonaws.com"},
                        "Action": "sts:AssumeRole",
                    }
                ),
                sort_keys=True,
            ),
            opts=child,
        )
        policy = aws.iam.RolePolicy(
            f"{name}-policy",
            role=role.name,
            policy=pulumi.Output.json_dumps(_policy(*_statements(args)), sort_keys=True),
            opts=child,
        )
        self.arn = pulumi.Output.all(role.arn, policy.id).apply(lambda values: str(values[0]))
        self.register_outputs({"arn": self.arn})


def _policy(*statements: dict[str, object]) -> dict[str, object]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _statements(args: EndpointRoleArgs) -> list[dict[str, object]]:
    """The statements that a Triton endpoint needs.

    Actions: https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html#sagemaker-roles-createmodel-perms
    """
    registry, _, repository = args["image"].partition("/")
    account, _, _, region, *_ = registry.split(".")
    return [
        {
            "Effect": "Allow",
            "Action": "s3:GetObject",
            "Resource": pulumi.Output.format("{}/{}/*", args["bucket_arn"], args["prefix"]),
        },
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": args["bucket_arn"],
            "Condition": {"StringLike": {"s3:prefix": pulumi.Output.concat(args["prefix"], "/*")}},
        },
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
            "Resource": f"arn:aws:logs:{region}:*:log-group:/aws/sagemaker/Endpoints/{args['endpoint']}*",
        },
        # The action knows no resource; the condition binds it to SageMaker's own metrics.
        {
            "Effect": "Allow",
            "Action": "cloudwatch:PutMetricData",
            "Resource": "*",
            "Condition": {"StringLike": {"cloudwatch:namespace": ["AWS/SageMaker", "/aws/sagemaker/*"]}},
        },
    ]
