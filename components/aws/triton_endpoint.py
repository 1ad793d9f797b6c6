"""Triton behind a SageMaker real-time endpoint."""

from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from capacity.planner import InstancePlan
from components.aws.deployment import Deployment, start_timeouts_s
from components.aws.fleet_size import FleetSize, PlannedFleet
from components.aws.served_configuration import ServedConfiguration

PRODUCTION_VARIANT = "triton"
CHALLENGER_VARIANT = "challenger"


class DataCapture(TypedDict):
    """What is kept of requests and answers."""

    uri: pulumi.Input[str]
    """`s3://<bucket>/<prefix>` that it is written to."""
    percent: int
    """Share of the requests, 1 to 100."""
    kms_key_arn: NotRequired[pulumi.Input[str]]
    """Encrypts what is written."""


class Challenger(TypedDict):
    """Another digest of the same model, beside the one that is served."""

    model_uri: pulumi.Input[str]
    """`s3://<bucket>/models/<name>/<digest>`."""
    mode: Literal["production", "shadow"]
    """production: it answers its share of the requests. shadow: it gets copies of them, and its answers are dropped."""
    percent: int
    """Share of the requests, 1 to 99 in production, 1 to 100 in the shadow."""
    plan: InstancePlan


class TritonEndpointArgs(TypedDict):
    """What the endpoint runs, and on how many instances."""

    region: str
    endpoint_name: str
    """Known beforehand: its alarms, its log group and its role are named after it."""
    model: str
    """Name of the model, a folder of the repository."""
    model_uri: pulumi.Input[str]
    """`s3://<bucket>/models/<name>/<digest>` of an uncompressed model repository."""
    model_size_bytes: int
    """What the repository weighs at the most: the time that an instance may take to load it follows from it."""
    role_arn: pulumi.Input[str]
    """Execution role, with its policy attached."""
    image: str
    """Image URI of the SageMaker Triton container in the endpoint's region."""
    inference_ami_version: str
    """Host image whose driver fits the container's CUDA."""
    plan: InstancePlan
    deployment: Deployment
    """How it moves from one configuration to the next."""
    rollback_alarms: Sequence[pulumi.Input[str]]
    """Names of the alarms that end an update and bring the old fleet back, each known once the alarm exists.

    Always the same ones: the AWS provider replaces an endpoint when this list changes.
    """
    vpc: NotRequired[aws.sagemaker.ModelVpcConfigArgsDict]
    """Subnets and security groups; left out: the instances are in SageMaker's own network."""
    capture: NotRequired[DataCapture]
    """Left out: nothing is kept."""
    challenger: NotRequired[Challenger]
    """Left out: one digest is served."""


class TritonEndpoint(pulumi.ComponentResource):
    """A SageMaker model, its endpoint configuration and its endpoint.

    A change of model, image or instance type makes a new model and a new configuration first, moves the endpoint to
    them in place, and deletes the old ones last, once the endpoint is seen to serve the new ones. A new fleet starts
    with what the live one has been scaled to (`FleetSize`). Containers reach no network.

    It does not scale (`EndpointScaling` does), watch (`EndpointAlarms` does) or make a role. It takes no KMS key for
    the instances' storage: a g4dn's disks are local, hardware-encrypted, and SageMaker refuses a key for them
    (https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateEndpointConfig.html).
    """

    endpoint_name: pulumi.Output[str]
    """Known once the endpoint serves its configuration."""
    model_name: pulumi.Output[str]
    """Of the SageMaker model that it serves."""

    def __init__(self, name: str, args: TritonEndpointArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:aws:TritonEndpoint", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        model = _model(f"{name}-model", args["model_uri"], args, child)
        configuration = _configuration(name, args, model, child)
        endpoint = aws.sagemaker.Endpoint(
            name,
            name=args["endpoint_name"],
            endpoint_config_name=configuration.name,
            deployment_config={
                **args["deployment"].policy(sum(start_timeouts_s(args["model_size_bytes"]))),
                "auto_rollback_configuration": {"alarms": [{"alarm_name": alarm} for alarm in args["rollback_alarms"]]},
            },
            opts=child,
        )
        served = ServedConfiguration(
            f"{name}-served",
            region=args["region"],
            endpoint_name=endpoint.name,
            configuration_name=configuration.name,
            opts=child,
        )
        self.model_name = model.name
        self.endpoint_name = pulumi.Output.all(endpoint.name, served.id).apply(lambda values: str(values[0]))
        self.register_outputs({"endpoint_name": self.endpoint_name, "model_name": self.model_name})


def _configuration(
    name: str, args: TritonEndpointArgs, model: aws.sagemaker.Model, opts: pulumi.ResourceOptions
) -> aws.sagemaker.EndpointConfiguration:
    challenger = args.get("challenger")
    plans = {PRODUCTION_VARIANT: args["plan"]}
    variants = {PRODUCTION_VARIANT: _variant(PRODUCTION_VARIANT, model, args["plan"], args)}
    if challenger:
        other = _model(f"{name}-challenger-model", challenger["model_uri"], args, opts)
        plans[CHALLENGER_VARIANT] = challenger["plan"]
        variants[CHALLENGER_VARIANT] = _variant(CHALLENGER_VARIANT, other, challenger["plan"], args)
    shadows = {CHALLENGER_VARIANT} if challenger and challenger["mode"] == "shadow" else set[str]()
    captured = _capture(args)
    size = FleetSize(
        f"{name}-fleet",
        region=args["region"],
        endpoint_name=args["endpoint_name"],
        configuration=pulumi.Output.json_dumps(
            {"variants": variants, "shadows": sorted(shadows), "capture": captured}, sort_keys=True
        ),
        fleets={variant: _planned(plan) for variant, plan in plans.items()},
        opts=opts,
    )
    sized: dict[str, Any] = {
        variant: {**described, "initial_instance_count": size.count(variant)} for variant, described in variants.items()
    }
    return aws.sagemaker.EndpointConfiguration(
        f"{name}-configuration",
        production_variants=[sized[variant] for variant in sized if variant not in shadows],
        shadow_production_variants=[sized[variant] for variant in shadows] or None,
        data_capture_config=captured,
        opts=opts,
    )


def _planned(plan: InstancePlan) -> PlannedFleet:
    return PlannedFleet(plan.min_count, plan.count, plan.max_invocations_per_minute_per_instance)


def _model(
    name: str, model_uri: pulumi.Input[str], args: TritonEndpointArgs, opts: pulumi.ResourceOptions
) -> aws.sagemaker.Model:
    return aws.sagemaker.Model(
        name,
        execution_role_arn=args["role_arn"],
        # Triton needs no network: SageMaker itself brings the model and the requests.
        enable_network_isolation=True,
        vpc_config=args.get("vpc"),
        primary_container={
            "image": args["image"],
            "model_data_source": {
                "s3_data_sources": [
                    {
                        # The slash makes it this prefix alone, not every key that begins so.
                        "s3_uri": pulumi.Output.concat(model_uri, "/"),
                        "s3_data_type": "S3Prefix",
                        # A prefix, not an archive: nothing to unpack when an instance starts.
                        "compression_type": "None",
                    }
                ]
            },
            "environment": container_environment(args["model"]),
        },
        opts=opts,
    )


def container_environment(model: str) -> dict[str, str]:
    """What the SageMaker Triton image is told.

    https://github.com/triton-inference-server/server/blob/main/docker/sagemaker/serve

    Args:
        model: Folder of the repository that invocations are for.
    """
    return {
        "SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": model,
        # The image's own default writes lines into CloudWatch Logs for every request.
        "SAGEMAKER_TRITON_LOG_VERBOSE": "false",
    }


def _variant(variant: str, model: aws.sagemaker.Model, plan: InstancePlan, args: TritonEndpointArgs) -> dict[str, Any]:
    """A variant of the configuration, without its count."""
    download_s, start_s = start_timeouts_s(args["model_size_bytes"])
    return {
        "variant_name": variant,
        "model_name": model.name,
        "instance_type": plan.instance_type,
        "initial_variant_weight": _weight(variant, args.get("challenger")),
        "inference_ami_version": args["inference_ami_version"],
        "model_data_download_timeout_in_seconds": download_s,
        "container_startup_health_check_timeout_in_seconds": start_s,
        # Triton batches what waits: the instance with the shortest queue answers first.
        "routing_configs": [{"routing_strategy": "LEAST_OUTSTANDING_REQUESTS"}],
    }


def _weight(variant: str, challenger: Challenger | None) -> float:
    """Production variants share the requests by weight; a shadow's weight over production's is the share copied.

    https://docs.aws.amazon.com/sagemaker/latest/dg/model-shadow-deployment.html
    """
    if challenger is None:
        return 1.0
    share = challenger["percent"] / 100
    if variant == CHALLENGER_VARIANT:
        return share
    return 1.0 if challenger["mode"] == "shadow" else (100 - challenger["percent"]) / 100


def _capture(args: TritonEndpointArgs) -> aws.sagemaker.EndpointConfigurationDataCaptureConfigArgsDict | None:
    capture = args.get("capture")
    if capture is None:
        return None
    captured: aws.sagemaker.EndpointConfigurationDataCaptureConfigArgsDict = {
        "enable_capture": True,
        "initial_sampling_percentage": capture["percent"],
        "destination_s3_uri": capture["uri"],
        "capture_options": [{"capture_mode": "Input"}, {"capture_mode": "Output"}],
        # What is not listed is kept in base64, as binary tensors must be.
        "capture_content_type_header": {"json_content_types": ["application/json"]},
    }
    if "kms_key_arn" in capture:
        captured["kms_key_id"] = capture["kms_key_arn"]
    return captured
