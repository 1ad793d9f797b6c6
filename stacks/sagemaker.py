"""Target 1: one SageMaker endpoint, scaled on invocations per instance."""

from dataclasses import asdict
from typing import Any

import pulumi

from capacity.planner import InstancePlan
from components.aws.endpoint_role import EndpointRole
from components.aws.endpoint_scaling import EndpointScaling
from components.aws.model_store import ModelStore
from components.aws.triton_endpoint import PRODUCTION_VARIANT, TritonEndpoint
from model_repo.compatibility import triton_releases
from stacks.model import ServedModel, model_uri
from stacks.settings import Settings


def deploy(name: str, settings: Settings, model: ServedModel, plan: InstancePlan) -> dict[str, Any]:
    """Deploy the target and say how it is reached.

    Args:
        name: Prefix of every resource.
        settings: The stack's settings.
        model: What the endpoint serves.
        plan: On how many instances.
    """
    release = triton_releases()[settings.triton.release]
    image = release.sagemaker_image(settings.aws_region)
    store = ModelStore(f"{name}-models")
    uri = model_uri(f"{name}-model", pulumi.Output.concat("s3://", store.bucket), model)
    role = EndpointRole(
        f"{name}-endpoint",
        {"endpoint": name, "bucket_arn": store.arn, "prefix": model.prefix, "image": image},
    )
    endpoint = TritonEndpoint(
        name,
        {
            "model": model.name,
            "model_uri": uri,
            "role_arn": role.arn,
            "image": image,
            "inference_ami_version": release.inference_ami_version,
            "plan": plan,
        },
    )
    EndpointScaling(
        f"{name}-scaling",
        {"endpoint_name": endpoint.endpoint_name, "production_variant": PRODUCTION_VARIANT, "plan": plan},
    )
    return {
        "endpoint": endpoint.endpoint_name,
        "region": settings.aws_region,
        "model": model.name,
        "digest": model.digest,
        "model_uri": uri,
        "plan": asdict(plan),
    }
