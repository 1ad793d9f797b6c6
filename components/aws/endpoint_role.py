"""What a SageMaker endpoint may do."""

from typing import TypedDict

import pulumi

from components.aws.sagemaker_role import Statement, container_statements, sagemaker_role


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
        self.arn = sagemaker_role(name, _statements(args), pulumi.ResourceOptions(parent=self))
        self.register_outputs({"arn": self.arn})


def _statements(args: EndpointRoleArgs) -> list[Statement]:
    """The statements that a Triton endpoint needs.

    Actions: https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html#sagemaker-roles-createmodel-perms
    """
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
        *container_statements(args["image"], f"/aws/sagemaker/Endpoints/{args['endpoint']}"),
        # The action knows no resource; the condition binds it to SageMaker's own metrics.
        {
            "Effect": "Allow",
            "Action": "cloudwatch:PutMetricData",
            "Resource": "*",
            "Condition": {"StringLike": {"cloudwatch:namespace": ["AWS/SageMaker", "/aws/sagemaker/*"]}},
        },
    ]
