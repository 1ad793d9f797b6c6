"""The program under Pulumi's mocks: no engine, no provider, no network."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import pulumi
import pulumi.runtime
import yaml

ROOT = Path(__file__).parents[2]
STACKS = ("local", "dev", "prod")


def stack_config(stack: str) -> dict[str, Any]:
    """The configuration of a stack file, as YAML has it."""
    return yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text(encoding="utf-8"))["config"]


def as_handed_to_a_program(config: dict[str, Any]) -> dict[str, str]:
    """The configuration as Pulumi hands it on: structures as JSON text."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}


@dataclass(frozen=True)
class Registered:
    """One resource that the program registered."""

    typ: str
    name: str
    inputs: dict[str, Any]


class Recorder(pulumi.runtime.Mocks):
    """Answers as a provider would, and remembers what was registered."""

    def __init__(self) -> None:
        self.resources: list[Registered] = []

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        inputs = cast("dict[str, Any]", args.inputs)  # pyright: ignore[reportUnknownMemberType] - a bare dict in the SDK
        self.resources.append(Registered(args.typ, args.name, inputs))
        outputs: dict[str, Any] = {"name": args.name, "bucket": args.name, "arn": f"arn:aws:mock:::{args.name}"}
        outputs |= {"email": f"{args.name}@mock", "member": f"serviceAccount:{args.name}@mock", **inputs}
        if args.typ == "kubernetes:core/v1:Service":
            outputs["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
        if args.typ == "gcp:container/cluster:Cluster":
            outputs |= {"endpoint": "192.0.2.2", "masterAuth": {"clusterCaCertificate": "Y2E="}}
        if args.typ.endswith(":FleetSize"):  # no fleet is there yet
            counts = {variant: fleet["count"] for variant, fleet in json.loads(inputs["fleets"]).items()}
            outputs["counts_json"] = json.dumps(counts)
        return f"{args.name}-id", outputs

    def call(self, args: pulumi.runtime.MockCallArgs) -> NoReturn:
        raise AssertionError(f"the program asks a cloud at preview: {args.token}")

    def of_type(self, typ: str) -> list[Registered]:
        return [resource for resource in self.resources if resource.typ == typ]

    def one(self, typ: str) -> Registered:
        (resource,) = self.of_type(typ)
        return resource


RunProgram = Callable[[str, dict[str, Any]], None]
