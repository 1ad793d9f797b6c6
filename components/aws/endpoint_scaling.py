"""How a SageMaker endpoint follows its traffic."""

from typing import Final, TypedDict

import pulumi
import pulumi_aws as aws

from capacity.autoscaling import BurstStep, EndpointScalingPolicy

_SERVICE: Final = "sagemaker"
_DIMENSION: Final = "sagemaker:variant:DesiredInstanceCount"


class EndpointScalingArgs(TypedDict):
    """Whose count is scaled, and how."""

    endpoint_name: pulumi.Input[str]
    """Name of an endpoint that exists: its variant is registered at once."""
    production_variant: str
    policy: EndpointScalingPolicy


class EndpointScaling(pulumi.ComponentResource):
    """Target tracking, steps for bursts with their alarm, and floors by schedule, between two bounds.

    It sets no count of its own: what the scaler has moved stays until the traffic moves it again. Nor does it reset a
    floor: a scheduled action changes the least count of the scalable target itself, so that with a schedule the one
    given here is only what the target starts with. Where an update changes the upper bound, AWS takes both bounds
    anew: `pulumi up --refresh` reads the floor of the hour first.
    """

    description: str
    """The arithmetic behind it, in words."""

    def __init__(self, name: str, args: EndpointScalingArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:aws:EndpointScaling", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        variant, policy = args["production_variant"], args["policy"]
        target = aws.appautoscaling.Target(
            f"{name}-target",
            service_namespace=_SERVICE,
            scalable_dimension=_DIMENSION,
            resource_id=pulumi.Output.format("endpoint/{}/variant/{}", args["endpoint_name"], variant),
            min_capacity=policy.min_count,
            max_capacity=policy.max_count,
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["minCapacity"] if policy.floors else None),
        )
        aws.appautoscaling.Policy(
            f"{name}-policy",
            policy_type="TargetTrackingScaling",
            service_namespace=target.service_namespace,
            scalable_dimension=target.scalable_dimension,
            resource_id=target.resource_id,
            target_tracking_scaling_policy_configuration={
                "target_value": policy.target,
                "predefined_metric_specification": {"predefined_metric_type": policy.predefined_metric},
                "scale_in_cooldown": policy.scale_in_cooldown_s,
                "scale_out_cooldown": policy.scale_out_cooldown_s,
            },
            opts=child,
        )
        threshold = policy.burst_steps[0].from_per_minute
        burst = aws.appautoscaling.Policy(
            f"{name}-burst-policy",
            policy_type="StepScaling",
            service_namespace=target.service_namespace,
            scalable_dimension=target.scalable_dimension,
            resource_id=target.resource_id,
            step_scaling_policy_configuration={
                "adjustment_type": "PercentChangeInCapacity",
                "min_adjustment_magnitude": 1,
                "cooldown": policy.scale_out_cooldown_s,
                "step_adjustments": [_step(step, threshold) for step in policy.burst_steps],
            },
            opts=child,
        )
        aws.cloudwatch.MetricAlarm(
            f"{name}-burst-alarm",
            alarm_description=policy.burst_description,
            namespace="AWS/SageMaker",
            metric_name="InvocationsPerInstance",
            dimensions={"EndpointName": args["endpoint_name"], "VariantName": variant},
            # The only statistic that means anything: a request counts as one over the number of instances.
            # https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html
            statistic="Sum",
            period=60,
            evaluation_periods=1,
            comparison_operator="GreaterThanOrEqualToThreshold",
            threshold=threshold,
            treat_missing_data="notBreaching",
            alarm_actions=[burst.arn],
            opts=child,
        )
        for number, floor in enumerate(policy.floors, start=1):
            aws.appautoscaling.ScheduledAction(
                f"{name}-floor-{number}",
                service_namespace=target.service_namespace,
                scalable_dimension=target.scalable_dimension,
                resource_id=target.resource_id,
                schedule=floor.schedule,
                timezone=floor.timezone,
                scalable_target_action={"min_capacity": floor.min_count},
                opts=child,
            )
        self.description = policy.description
        self.register_outputs({"description": self.description})


def _step(
    step: BurstStep, threshold: float
) -> aws.appautoscaling.PolicyStepScalingPolicyConfigurationStepAdjustmentArgsDict:
    """One step; Application Auto Scaling counts its bounds from the alarm's threshold."""
    adjustment: aws.appautoscaling.PolicyStepScalingPolicyConfigurationStepAdjustmentArgsDict = {
        "metric_interval_lower_bound": f"{step.from_per_minute - threshold:.15g}",
        "scaling_adjustment": step.percent,
    }
    if step.below_per_minute is not None:
        adjustment["metric_interval_upper_bound"] = f"{step.below_per_minute - threshold:.15g}"
    return adjustment
