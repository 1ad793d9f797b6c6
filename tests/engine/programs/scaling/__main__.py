"""An endpoint and its scaling for each of several stacks' settings."""

import json

import pulumi
import pulumi_aws as aws

from capacity.autoscaling import endpoint_scaling
from capacity.planner import InstancePlan
from components.aws.deployment import Deployment
from components.aws.endpoint_scaling import EndpointScaling
from components.aws.triton_endpoint import PRODUCTION_VARIANT, TritonEndpoint
from stacks.fleet import plan_fleet
from stacks.settings import read_settings

TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
role = aws.iam.Role("role", assume_role_policy=json.dumps(TRUST))
alarm = aws.cloudwatch.MetricAlarm(
    "alarm",
    comparison_operator="GreaterThanThreshold",
    evaluation_periods=1,
    namespace="AWS/SageMaker",
    metric_name="ModelLatency",
    period=60,
    statistic="Average",
    threshold=1,
)


def endpoint(name: str, plan: InstancePlan) -> pulumi.Output[str]:
    """The name of an endpoint on the planned instances."""
    return TritonEndpoint(
        name,
        {
            "region": "us-east-1",
            "endpoint_name": f"scaling-{name}",
            "model": "bert-large",
            "model_uri": "s3://models/bert-large/0",
            "model_size_bytes": 10**9,
            "role_arn": role.arn,
            "image": "763104351884.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tritonserver:25.09-py3",
            "inference_ami_version": "al2-ami-sagemaker-inference-gpu-3-1",
            "plan": plan,
            "deployment": Deployment("all-at-once", wait_s=0),
            "rollback_alarms": [alarm.name],
        },
    ).endpoint_name


for name, config in pulumi.Config().require_object("settings").items():
    settings = read_settings(config)
    plan = plan_fleet(settings).sagemaker
    assert plan
    served = endpoint(name, plan)
    policy = endpoint_scaling(plan, metric=settings.sagemaker.scaling_metric, profile=settings.traffic.profile)
    EndpointScaling(
        f"{name}-scaling", {"endpoint_name": served, "production_variant": PRODUCTION_VARIANT, "policy": policy}
    )
    pulumi.export(name, served)
