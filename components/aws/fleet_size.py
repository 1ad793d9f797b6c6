"""On how many instances a new fleet starts."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider, UpdateResult

if TYPE_CHECKING:
    from types_boto3_sagemaker import SageMakerClient


@dataclass(frozen=True)
class PlannedFleet:
    """What a variant's plan says of its fleet."""

    min_count: int
    count: int
    max_invocations_per_minute_per_instance: int
    """What one instance was measured to sustain."""


def starting_count(plan: PlannedFleet, live: int | None, before: PlannedFleet | None) -> int:
    """Instances that carry what the live fleet carries, and at least the plan's minimum.

    Args:
        plan: Of the new fleet.
        live: Instances that the variant has now, at least 1; None where it is not there: then it is the plan's count.
        before: By which plan the live fleet was made; None where that is not known: taken to be as fast.
    """
    if live is None:
        return plan.count
    carried = live * (before or plan).max_invocations_per_minute_per_instance
    return max(plan.min_count, math.ceil(carried / plan.max_invocations_per_minute_per_instance))


class _Provider(ResourceProvider):
    """Pulumi stores it with the resource: it holds nothing, and what it needs is imported as it runs."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(props["endpoint_name"], _counted(props, {}))

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        replaces = [key for key in ("region", "endpoint_name") if olds[key] != news[key]]
        return DiffResult(changes=bool(replaces) or olds["configuration"] != news["configuration"], replaces=replaces)

    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(_counted(news, json.loads(olds["fleets"])))


class FleetSize(Resource, module="triton-stack", name="FleetSize"):
    """How many instances each variant of a new endpoint configuration starts with.

    A configuration is never changed: another one is another fleet, which must carry what the live one carries. Where
    autoscaling has moved that, the plan's count would be too few or too many. So the live count is asked for once, in
    the update that makes the configuration; a preview shows it as unknown. An unchanged configuration keeps its
    counts, whatever autoscaling does, and another plan alone starts no new fleet: it moves the scaler's bounds.

    Args:
        name: Logical name.
        region: The endpoint's.
        endpoint_name: The endpoint, which need not be there yet.
        configuration: Canonical JSON of all that makes another configuration, the counts left out.
        fleets: Variant → what is planned for it.
        opts: Pulumi's.
    """

    counts_json: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        region: str,
        endpoint_name: str,
        configuration: pulumi.Input[str],
        fleets: Mapping[str, PlannedFleet],
        opts: pulumi.ResourceOptions,
    ) -> None:
        # As text: numbers would become floats on their way to the provider.
        planned = json.dumps({variant: asdict(fleet) for variant, fleet in fleets.items()}, sort_keys=True)
        where = {"region": region, "endpoint_name": endpoint_name}
        props = {**where, "configuration": configuration, "fleets": planned, "counts_json": None}
        super().__init__(_Provider(), name, props, opts)

    def count(self, variant: str) -> pulumi.Output[int]:
        """Instances of one variant."""
        return self.counts_json.apply(lambda text: int(json.loads(text)[variant]))


def _counted(props: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    live = _live_counts(props["region"], props["endpoint_name"])
    counts = {
        variant: starting_count(
            PlannedFleet(**plan), live.get(variant), PlannedFleet(**before[variant]) if variant in before else None
        )
        for variant, plan in json.loads(props["fleets"]).items()
    }
    return {**props, "counts_json": json.dumps(counts, sort_keys=True)}


def _live_counts(region: str, endpoint_name: str) -> dict[str, int]:
    """Variant → desired instances; empty where there is no such endpoint."""
    import boto3  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    client: SageMakerClient = boto3.client("sagemaker", region_name=region)  # pyright: ignore[reportUnknownMemberType] - most services have no stubs
    try:
        endpoint = client.describe_endpoint(EndpointName=endpoint_name)
    except (BotoCoreError, ClientError) as error:
        if "Could not find endpoint" in str(error):
            return {}
        # Pulumi prints the traceback of what a provider raises; of these, the text says all.
        sys.tracebacklimit = 0
        raise
    variants = [*endpoint.get("ProductionVariants", []), *endpoint.get("ShadowProductionVariants", [])]
    return {each["VariantName"]: each["DesiredInstanceCount"] for each in variants if "DesiredInstanceCount" in each}
