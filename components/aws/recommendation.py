"""What one instance sustains with a model, measured by SageMaker Inference Recommender."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypedDict

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider

from capacity.recommendation import LoadTest, RecommendationError, check_instance_types
from model_repo.spec import ModelSpec
from model_repo.variant import parse_variant


class RecommendationArgs(TypedDict):
    """What is measured, with which traffic."""

    spec: ModelSpec
    """The model: its sample requests are sent."""
    variant: str
    """How `model_name` serves it: what the rows are called."""
    model_name: pulumi.Input[str]
    """Name of a SageMaker model."""
    instance_types: Sequence[str]
    """One to ten g4dn types, each once."""
    load_test: LoadTest
    """The traffic, and when it is enough; one environment at the most, for it is one variant."""
    bucket: pulumi.Input[str]
    """Name of the model store's bucket: the requests are put under `payloads/`."""
    role_arn: pulumi.Input[str]
    """Role with AWS's AmazonSageMakerFullAccess and read access to `bucket`, for it makes endpoints."""
    region: str


class Recommendation(pulumi.ComponentResource):
    """A load test of one SageMaker model (an Advanced job), inside an update, which waits for its end.

    A request that was measured is never measured again: another stack, or the same one after an interrupted update,
    takes the job that runs or has completed. A preview asks no cloud. What it finds stays when the stack goes, for
    the API deletes no job; one that still runs is stopped. It plans no count: whoever wants its rows to, saves them.

    Raises:
        capacity.recommendation.RecommendationError: What is asked is out of the API's range.
        model_repo.variant.VariantError: There is no such variant.
    """

    job_name: pulumi.Output[str]
    measurements: pulumi.Output[list[dict[str, Any]]]
    """A row for each instance type, by the fields of `capacity.measurements.Measurement`."""

    def __init__(self, name: str, args: RecommendationArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        instance_types, test = tuple(args["instance_types"]), args["load_test"]
        check_instance_types(instance_types, test)
        if several := [variable for variable, values in test.environment.items() if len(values) > 1]:
            raise RecommendationError(f"load_test.environment: {several[0]} has several values; one is one variant's")
        super().__init__("triton-stack:aws:Recommendation", name, {}, opts)
        job = _Job(
            f"{name}-job",
            {
                # As text: numbers would become floats on their way to the provider.
                "test": json.dumps({"instance_types": instance_types, "load_test": asdict(test)}, sort_keys=True),
                "spec": args["spec"].model_dump_json(),
                "variant": parse_variant(args["variant"]).name,
                "model_name": args["model_name"],
                "bucket": args["bucket"],
                "role_arn": args["role_arn"],
                "region": args["region"],
                "job_name": None,
                "measurements": None,
            },
            pulumi.ResourceOptions(parent=self),
        )
        self.job_name = job.job_name
        self.measurements = job.measurements.apply(lambda text: json.loads(text) if text else [])
        self.register_outputs({"job_name": self.job_name, "measurements": self.measurements})


class _Provider(ResourceProvider):
    """Starts and waits. Pulumi stores it with the resource: it holds nothing.

    It runs in a process of its own, which alone imports the clients of AWS.
    """

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Another subject or another traffic is another measurement; who makes it, and from which copy, is not."""
        measured = ("test", "spec", "variant", "model_name", "region")
        replaces = [name for name in measured if _olds.get(name) != _news.get(name)]
        return DiffResult(changes=bool(replaces), replaces=replaces)

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Measure, unless that was done."""
        from capacity.recommendation import RecommendationRequest, measurements_of  # noqa: PLC0415
        from capacity.recommender import Recommender  # noqa: PLC0415
        from model_repo.payload import upload_payload  # noqa: PLC0415
        from model_repo.store import open_store  # noqa: PLC0415

        # Pulumi prints the traceback of what a provider raises; of an error of AWS's, the text says all.
        sys.tracebacklimit = 0
        spec, test = ModelSpec.model_validate_json(props["spec"]), json.loads(props["test"])
        request = RecommendationRequest(
            spec=spec,
            model=props["model_name"],
            payload_url=upload_payload(open_store(f"s3://{props['bucket']}"), spec),
            instance_types=tuple(test["instance_types"]),
            load_test=LoadTest(**test["load_test"]),
            variant=props["variant"],
        )
        recommender = Recommender(props["region"], pulumi.log.info)
        job = recommender.wait(recommender.start(request, props["role_arn"]))
        rows = measurements_of(job.recommendations, variant=props["variant"], environment={})
        measured = json.dumps([row.model_dump() for row in rows], sort_keys=True)
        return CreateResult(job.name, {**props, "job_name": job.name, "measurements": measured})

    def delete(self, id_: str, props: dict[str, Any]) -> None:
        """Stop the job if it runs; the API keeps what has ended."""
        from capacity.recommender import NoSuchJobError, Recommender  # noqa: PLC0415

        sys.tracebacklimit = 0
        try:
            Recommender(props["region"], pulumi.log.info).stop(id_)
        except NoSuchJobError:
            pulumi.log.info(f"{id_} is gone already")


class _Job(Resource, module="triton-stack", name="Recommendation"):
    job_name: pulumi.Output[str]
    measurements: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(_Provider(), name, props, opts)
