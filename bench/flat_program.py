"""The same resources as the program's, with nothing around them: no settings, plans or components of ours.

It registers what `resources.json` lists, by the SDKs' own classes, as a flat script of one statement a resource would.
"""

import importlib
import inspect
import json
from pathlib import Path
from typing import Any, cast

import pulumi
import pulumi_gcp
import pulumi_kubernetes

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""What a preview shows in place of a value that is not known yet."""


def known(value: Any) -> Any:  # noqa: ANN401 - JSON
    """The value with a text where it was not known."""
    match value:
        case dict():
            items = cast("dict[str, Any]", value).items()
            return {key: known(item) for key, item in items if not key.startswith("__")}
        case list():
            return [known(item) for item in cast("list[Any]", value)]
        case _:
            return "unknown" if value == UNKNOWN else value


def resource_class(token: str) -> type[pulumi.CustomResource]:
    """The SDK's class of a type: `aws:s3/bucket:Bucket`, `kubernetes:apps/v1:Deployment`."""
    package, module, name = token.split(":")
    path = module.split("/")
    if package == "kubernetes":
        group = path[0].split(".")[0]
        return getattr(importlib.import_module(f"pulumi_kubernetes.{group}.{path[1]}"), name)
    return getattr(importlib.import_module(f"pulumi_{package}.{path[0].lower()}"), name)


def arguments(sdk: type[pulumi.CustomResource], inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs by the names of the class's own parameters; a Kubernetes class sets its apiVersion and kind itself."""
    parameters = {name.replace("_", ""): name for name in inspect.signature(sdk._internal_init).parameters}  # type: ignore[attr-defined]
    return {parameters[key.lower()]: item for key, item in inputs.items() if key not in ("apiVersion", "kind")}


clusters: dict[str, pulumi_gcp.container.Cluster] = {}
providers: dict[str, pulumi.ProviderResource] = {}
for entry in json.loads(Path("resources.json").read_text(encoding="utf-8")):
    typ, name, inputs = entry["type"], entry["name"], known(entry["inputs"])
    if typ == "pulumi:providers:kubernetes":
        # Not known before the cluster is there, as in the program.
        cluster = clusters[name.removesuffix("-kubernetes") + "-cluster"]
        providers[name] = pulumi_kubernetes.Provider(name, kubeconfig=cluster.endpoint, enable_server_side_apply=True)
    elif typ.startswith("triton-stack:"):
        pulumi.ComponentResource(typ, name)
    else:
        provider = next((p for n, p in providers.items() if name.startswith(n.removesuffix("-kubernetes"))), None)
        options = pulumi.ResourceOptions(provider=provider if typ.startswith("kubernetes:") else None)
        sdk = resource_class(typ)
        resource = sdk(name, **arguments(sdk, inputs), opts=options)
        if isinstance(resource, pulumi_gcp.container.Cluster):
            clusters[name] = resource
