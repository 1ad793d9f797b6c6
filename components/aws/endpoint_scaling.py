"""How a SageMaker endpoint follows its traffic."""

from typing import TypedDict

import pulumi
import pulumi_aws as aws

from capacity.planner import InstancePlan


class EndpointScalingArgs(TypedDict):
    """Whose count is scaled, and by what plan."""

    endpoint_name: pulumi.Input[str]
    production_variant: str
    plan: InstancePlan


class EndpointScaling(pulumi.ComponentResource):
    """Target tracking on invocations per instance, between the plan's bounds.

    The target is the plan's: measured throughput times safety factor. It sets no count of its own: what the scaler
    has moved stays until the traffic moves it again.
    """

    def __init__(self, name: str, args: EndpointScalingArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:aws:EndpointScaling", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        plan = args["plan"]
        target = aws.appautoscaling.Target(
            f"{name}-target",
            service_namespace="sagemaker",
            scalable_dimension="sagemaker:variant:DesiredInstanceCount",
            resource_id=pulumi.Output.format(
                "endpoint/{}/variant/{}", args["endpoint_name"], args["production_variant"]
            ),
            min_capacity=plan.min_count,
            max_capacity=plan.max_count,
            opts=child,
        )
        aws.appautoscaling.Policy(
            f"{name}-policy",
            policy_type="TargetTrackingScaling",
            service_namespace=target.service_namespace,
            scalable_dimension=target.scalable_dimension,
            resource_id=target.resource_id,
            target_tracking_scaling_policy_configuration={
                "target_value": plan.scaling_target_per_minute,
                "predefined_metric_specification": {"predefined_metric_type": "SageMakerVariantInvocationsPerInstance"},
                # Seconds. In: the service's default. Out: the next decision waits for one period of the metric only,
                # for an instance that is still starting already counts in it.
                "scale_in_cooldown": 300,
                "scale_out_cooldown": 60,
            },
            opts=child,
        )
        self.register_outputs({})
