"""Triton behind a SageMaker real-time endpoint."""

from typing import TypedDict

import pulumi
import pulumi_aws as aws

from capacity.planner import InstancePlan

PRODUCTION_VARIANT = "triton"


class TritonEndpointArgs(TypedDict):
    """What the endpoint runs, and on how many instances."""

    model: str
    """Name of the model, a folder of the repository."""
    model_uri: pulumi.Input[str]
    """`s3://<bucket>/models/<name>/<digest>` of an uncompressed model repository."""
    role_arn: pulumi.Input[str]
    """Execution role, with its policy attached."""
    image: str
    """Image URI of the SageMaker Triton container in the endpoint's region."""
    inference_ami_version: str
    """Host image whose driver fits the container's CUDA."""
    plan: InstancePlan


class TritonEndpoint(pulumi.ComponentResource):
    """A SageMaker model, its endpoint configuration and its endpoint.

    A change of model, image or instance type makes a new model and a new configuration first, moves the endpoint to
    them in place, and deletes the old ones last. It does not scale (`EndpointScaling` does) and makes no role.
    """

    endpoint_name: pulumi.Output[str]

    def __init__(self, name: str, args: TritonEndpointArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:aws:TritonEndpoint", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        model = aws.sagemaker.Model(
            f"{name}-model",
            execution_role_arn=args["role_arn"],
            # Triton needs no network: SageMaker itself brings the model and the requests.
            enable_network_isolation=True,
            primary_container={
                "image": args["image"],
                "model_data_source": {
                    "s3_data_sources": [
                        {
                            # The slash makes it this prefix alone, not every key that begins so.
                            "s3_uri": pulumi.Output.concat(args["model_uri"], "/"),
                            "s3_data_type": "S3Prefix",
                            # A prefix, not an archive: nothing to unpack when an instance starts.
                            "compression_type": "None",
                        }
                    ]
                },
                "environment": {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": args["model"]},
            },
            opts=child,
        )
        configuration = aws.sagemaker.EndpointConfiguration(
            f"{name}-configuration",
            production_variants=[
                {
                    "variant_name": PRODUCTION_VARIANT,
                    "model_name": model.name,
                    "instance_type": args["plan"].instance_type,
                    "initial_instance_count": args["plan"].count,
                    "initial_variant_weight": 1.0,
                    "inference_ami_version": args["inference_ami_version"],
                    # Seconds, 60 to 3,600: BERT-large's 1.3 GB at 50 MB/s, and a cold start of Triton, with room.
                    "model_data_download_timeout_in_seconds": 600,
                    "container_startup_health_check_timeout_in_seconds": 600,
                    # Triton batches what waits: the instance with the shortest queue answers first.
                    "routing_configs": [{"routing_strategy": "LEAST_OUTSTANDING_REQUESTS"}],
                }
            ],
            opts=child,
        )
        endpoint = aws.sagemaker.Endpoint(name, endpoint_config_name=configuration.name, opts=child)
        self.endpoint_name = endpoint.name
        self.register_outputs({"endpoint_name": self.endpoint_name})
