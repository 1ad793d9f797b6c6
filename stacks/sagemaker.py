"""Target 1: one SageMaker endpoint, scaled and watched from one plan and one objective."""

import math
from dataclasses import asdict
from typing import Any

import pulumi

from capacity.autoscaling import endpoint_scaling
from capacity.planner import SECONDS_PER_MINUTE, InstancePlan
from capacity.recommendation import EndpointRate, LoadTest
from components.aws.endpoint_alarms import EndpointAlarms, EndpointAlarmsArgs
from components.aws.endpoint_role import EndpointRole, EndpointRoleArgs
from components.aws.endpoint_scaling import EndpointScaling
from components.aws.engine_build import EngineBuild, EngineBuildArgs
from components.aws.model_store import ModelStore, ModelStoreArgs
from components.aws.recommendation import Recommendation
from components.aws.registered_model import RegisteredModel
from components.aws.triton_endpoint import (
    CHALLENGER_VARIANT,
    PRODUCTION_VARIANT,
    TritonEndpoint,
    TritonEndpointArgs,
    container_environment,
)
from model_repo.compatibility import triton_releases
from model_repo.manifest import repository_prefix
from model_repo.spec import load_spec
from observability.slo import Slo
from stacks.fleet import endpoint_deployment
from stacks.model import ServedModel, StoredModel, largest_repository_bytes, published_source, stored_model
from stacks.settings import RecommendationSettings, Settings


def deploy(
    name: str, settings: Settings, model: ServedModel, plan: InstancePlan, challenger: InstancePlan | None = None
) -> tuple[dict[str, Any], StoredModel]:
    """Deploy the target; say how it is reached, and where it has its model.

    Args:
        name: Prefix of every resource, and the endpoint's own name.
        settings: The stack's settings.
        model: What the endpoint serves.
        plan: On how many instances.
        challenger: Where the settings have one, on how many instances that is.
    """
    image = triton_releases()[settings.triton.release].sagemaker_image(settings.aws_region)
    store = _store(name, settings)
    stored = _compiled(name, settings, model, store, image) or stored_model(f"{name}-s3-model", store.url, model)
    alarms = _alarms(f"{name}-alarms", settings, name, plan)
    endpoint = _endpoint(name, settings, store, stored, alarms, (plan, challenger))
    scaling = _scaling(f"{name}-scaling", settings, endpoint, PRODUCTION_VARIANT, plan)
    if challenger and settings.sagemaker.challenger and settings.sagemaker.challenger.mode == "production":
        _scaling(f"{name}-challenger-scaling", settings, endpoint, CHALLENGER_VARIANT, challenger)
    registered = _registered(f"{name}-registered", settings, name, stored)
    outputs: dict[str, Any] = {
        "endpoint": endpoint.endpoint_name,
        "region": settings.aws_region,
        "model": model.name,
        "digest": stored.digest,
        "model_uri": stored.uri,
        "model_name": endpoint.model_name,
        "model_package": registered.package_arn,
        "plan": asdict(plan),
        "scaling": scaling.description,
    }
    if asked := settings.sagemaker.recommendation:
        outputs["measurements"] = _measurements(f"{name}-recommendation", settings, asked, store, endpoint)
    return outputs, stored


def _store(name: str, settings: Settings) -> ModelStore:
    args: ModelStoreArgs = {}
    if settings.sagemaker.kms_key_arn:
        args["kms_key_arn"] = settings.sagemaker.kms_key_arn
    return ModelStore(f"{name}-models", args)


def _alarms(name: str, settings: Settings, endpoint_name: str, plan: InstancePlan) -> EndpointAlarms:
    args: EndpointAlarmsArgs = {
        "endpoint_name": endpoint_name,
        "production_variant": PRODUCTION_VARIANT,
        "plan": plan,
        "slo": Slo(**settings.slo.model_dump()),
        "region": settings.aws_region,
    }
    if settings.sagemaker.alarm_topic_arn:
        args["topic_arn"] = settings.sagemaker.alarm_topic_arn
    return EndpointAlarms(name, args)


def _endpoint(
    name: str,
    settings: Settings,
    store: ModelStore,
    stored: StoredModel,
    alarms: EndpointAlarms,
    plans: tuple[InstancePlan, InstancePlan | None],
) -> TritonEndpoint:
    """The endpoint and what it acts as: what one has more, the other may do more."""
    asked, release = settings.sagemaker, triton_releases()[settings.triton.release]
    image, (plan, challenger_plan) = release.sagemaker_image(settings.aws_region), plans
    role: EndpointRoleArgs = {
        "endpoint": name,
        "bucket_arn": store.arn,
        "prefixes": [stored.prefix],
        "image": image,
        "rollback_alarms": alarms.rollback_alarm_names,
    }
    endpoint: TritonEndpointArgs = {
        "region": settings.aws_region,
        "endpoint_name": name,
        "model": stored.name,
        "model_uri": stored.uri,
        "model_size_bytes": largest_repository_bytes(settings.model),
        "role_arn": "",
        "image": image,
        "inference_ami_version": release.inference_ami_version,
        "plan": plan,
        "deployment": endpoint_deployment(settings),
        "rollback_alarms": alarms.rollback_alarm_names,
    }
    if asked.challenger and challenger_plan:
        prefix = repository_prefix(stored.name, asked.challenger.digest)
        role["prefixes"] = [stored.prefix, prefix]
        endpoint["challenger"] = {
            "model_uri": pulumi.Output.concat(store.url, "/", prefix),
            "mode": asked.challenger.mode,
            "percent": asked.challenger.percent,
            "plan": challenger_plan,
        }
    if asked.vpc:
        role["vpc"] = endpoint["vpc"] = {
            "subnets": asked.vpc.subnet_ids,
            "security_group_ids": asked.vpc.security_group_ids,
        }
    if asked.capture:
        role["captured_prefix"] = f"captured/{name}"
        endpoint["capture"] = {
            "uri": pulumi.Output.concat(store.url, "/captured/", name),
            "percent": asked.capture.percent,
        }
    if asked.kms_key_arn:
        role["kms_key_arn"] = asked.kms_key_arn
        if "capture" in endpoint:
            endpoint["capture"]["kms_key_arn"] = asked.kms_key_arn
    endpoint["role_arn"] = EndpointRole(f"{name}-endpoint", role).arn
    return TritonEndpoint(name, endpoint)


def _scaling(
    name: str, settings: Settings, endpoint: TritonEndpoint, variant: str, plan: InstancePlan
) -> EndpointScaling:
    policy = endpoint_scaling(plan, metric=settings.sagemaker.scaling_metric, profile=settings.traffic.profile)
    return EndpointScaling(
        name, {"endpoint_name": endpoint.endpoint_name, "production_variant": variant, "policy": policy}
    )


def _registered(name: str, settings: Settings, group: str, stored: StoredModel) -> RegisteredModel:
    return RegisteredModel(
        name,
        {
            "group": group,
            "region": settings.aws_region,
            "digest": stored.digest,
            "variant": settings.model.variant,
            "model_uri": stored.uri,
            "image": triton_releases()[settings.triton.release].sagemaker_image(settings.aws_region),
            "environment": container_environment(stored.name),
            "instance_type": settings.sagemaker.instance_type,
        },
    )


def _measurements(
    name: str, settings: Settings, asked: RecommendationSettings, store: ModelStore, endpoint: TritonEndpoint
) -> pulumi.Output[list[dict[str, Any]]]:
    recommendation = Recommendation(
        name,
        {
            "spec": load_spec(settings.model.name),
            "variant": settings.model.variant,
            "model_name": endpoint.model_name,
            "instance_types": asked.instance_types,
            "load_test": LoadTest(
                max_latency_p95_ms=math.ceil(settings.slo.latency_ms),
                max_invocations_per_minute_of_endpoint=EndpointRate(
                    math.ceil(settings.traffic.peak_rps * SECONDS_PER_MINUTE)
                ),
                job_duration_s=18_000,  # the longest: it is over when its tests are
            ),
            "bucket": store.bucket,
            "role_arn": asked.role_arn,
            "region": settings.aws_region,
        },
    )
    return recommendation.measurements


def _compiled(name: str, settings: Settings, model: ServedModel, store: ModelStore, image: str) -> StoredModel | None:
    """The repository around an engine that SageMaker builds; None where no engine is to be built."""
    if model.order is None or model.artifact is None:
        return None
    source = published_source(f"{name}-s3-source", store.url, model.artifact, model.order)
    build: EngineBuildArgs = {
        "order": model.order,
        "bucket": store.bucket,
        "bucket_arn": store.arn,
        "source_uri": source.uri,
        "image": image,
        "region": settings.aws_region,
    }
    if settings.sagemaker.kms_key_arn:
        build["kms_key_arn"] = settings.sagemaker.kms_key_arn
    engine = EngineBuild(f"{name}-engine", build)
    return StoredModel(model.name, store.url, engine.digest, engine.uri)
