"""How Triton pods follow their traffic."""

from typing import TypedDict

import pulumi
import pulumi_kubernetes as kubernetes

from capacity.planner import InstancePlan

REQUESTS_METRIC = "triton_requests_per_minute"
"""Custom metric of a pod: the rate of `nv_inference_request_success`, per minute."""

# Thousandths in each unit, the largest first.
_QUANTITY_SIZES = (("M", 10**9), ("k", 10**6), ("", 10**3))


class TritonScalingArgs(TypedDict):
    """Whose pods are scaled, and by what plan."""

    namespace: pulumi.Input[str]
    deployment: pulumi.Input[str]
    """Name of the Deployment."""
    plan: InstancePlan


class TritonScaling(pulumi.ComponentResource):
    """A horizontal pod autoscaler on requests per pod, between the plan's bounds.

    The target is the number that drives the SageMaker endpoint: measured throughput times safety factor. The metric
    comes from the cluster's custom metrics API; while that does not answer, the pods stay at the plan's minimum.
    """

    def __init__(self, name: str, args: TritonScalingArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:kubernetes:TritonScaling", name, {}, opts)
        plan = args["plan"]
        kubernetes.autoscaling.v2.HorizontalPodAutoscaler(
            f"{name}-autoscaler",
            metadata={"name": args["deployment"], "namespace": args["namespace"]},
            spec={
                "scale_target_ref": {"api_version": "apps/v1", "kind": "Deployment", "name": args["deployment"]},
                "min_replicas": plan.min_count,
                "max_replicas": plan.max_count,
                "metrics": [
                    {
                        "type": "Pods",
                        "pods": {
                            "metric": {"name": REQUESTS_METRIC},
                            "target": {
                                "type": "AverageValue",
                                "average_value": _quantity(plan.scaling_target_per_minute),
                            },
                        },
                    }
                ],
            },
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({})


def _quantity(value: float) -> str:
    """A Kubernetes quantity, in the form in which the API server gives it back."""
    thousandths = round(value * 1000)
    suffix, size = next((each for each in _QUANTITY_SIZES if thousandths % each[1] == 0), ("m", 1))
    return f"{thousandths // size}{suffix}"
