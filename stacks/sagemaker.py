"""Target 1: one SageMaker endpoint, scaled on invocations per instance."""

from dataclasses import asdict
from typing import Any

from capacity.planner import InstancePlan
from components.aws.endpoint_role import EndpointRole
from components.aws.endpoint_scaling import EndpointScaling
from components.aws.engine_build import EngineBuild
from components.aws.model_store import ModelStore
from components.aws.triton_endpoint import PRODUCTION_VARIANT, TritonEndpoint
from model_repo.compatibility import triton_releases
from stacks.model import ServedModel, StoredModel, published_source, stored_model
from stacks.settings import Settings


def deploy(name: str, settings: Settings, model: ServedModel, plan: InstancePlan) -> tuple[dict[str, Any], StoredModel]:
    """Deploy the target; say how it is reached, and where it has its model.

    Args:
        name: Prefix of every resource.
        settings: The stack's settings.
        model: What the endpoint serves.
        plan: On how many instances.
    """
    release = triton_releases()[settings.triton.release]
    image = release.sagemaker_image(settings.aws_region)
    store = ModelStore(f"{name}-models")
    stored = _compiled(name, settings, model, store, image) or stored_model(f"{name}-s3-model", store.url, model)
    role = EndpointRole(
        f"{name}-endpoint",
        {"endpoint": name, "bucket_arn": store.arn, "prefixes": [stored.prefix], "image": image},
    )
    endpoint = TritonEndpoint(
        name,
        {
            "model": model.name,
            "model_uri": stored.uri,
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
    outputs: dict[str, Any] = {
        "endpoint": endpoint.endpoint_name,
        "region": settings.aws_region,
        "model": model.name,
        "digest": stored.digest,
        "model_uri": stored.uri,
        "plan": asdict(plan),
    }
    return outputs, stored


def _compiled(name: str, settings: Settings, model: ServedModel, store: ModelStore, image: str) -> StoredModel | None:
    """The repository around an engine that SageMaker builds; None where no engine is to be built."""
    if model.order is None or model.artifact is None:
        return None
    source = published_source(f"{name}-s3-source", store.url, model.artifact, model.order)
    engine = EngineBuild(
        f"{name}-engine",
        {
            "order": model.order,
            "bucket": store.bucket,
            "bucket_arn": store.arn,
            "source_uri": source.uri,
            "image": image,
            "region": settings.aws_region,
        },
    )
    return StoredModel(model.name, store.url, engine.digest, engine.uri)
