"""The stand-in for the Kubernetes provider: server-side apply to a real API server on this machine.

It is generic over kinds. The API server validates, strictly; this waits until an object is ready, as the official
provider does (https://www.pulumi.com/registry/packages/kubernetes/how-to-guides/managing-resources-with-server-side-apply/).
"""

import base64
import json
import os
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import yaml
from pulumi.runtime.proto.provider_pb2 import CheckRequest
from urllib3.exceptions import HTTPError

from localcloud.plugins.base import (
    InitializationError,
    Kind,
    NotLoopbackError,
    Object,
    Provider,
    ProviderError,
    Resource,
    require_loopback,
    same,
    serve,
)
from localcloud.plugins.schema import UNKNOWN, Schema, SchemaError, Shape, Value

REPLACES: dict[str, list[str]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
EVERYWHERE = ("apiVersion", "kind", "metadata.name", "metadata.namespace")
AUTONAMED = "pulumi.com/autonamed"
MANAGER = "__fieldManager"
TIMEOUT_SECONDS = 30.0


class ApiError(ProviderError):
    """The API server said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """An API server, by paths and JSON-like bodies.

    Args:
        kubeconfig: its contents.
        context: the context, or None for the current one.

    Raises:
        ProviderError: the server is not on this machine, or the kubeconfig is not one.
    """

    def __init__(self, kubeconfig: Object, context: str | None) -> None:
        # half a second that an offline preview does not need
        from kubernetes import config  # noqa: PLC0415

        load = cast("Any", config)  # it has no types
        try:
            client = load.new_client_from_config_dict(kubeconfig, context, persist_config=False)
        except load.ConfigException as error:
            raise ProviderError(f"kubernetes:kubeconfig cannot be used: {error}") from error
        settings = client.configuration
        self._host = require_loopback("kubernetes", settings.host, "the server in kubernetes:kubeconfig")
        self._pool = client.rest_client.pool_manager
        token = settings.get_api_key_with_prefix("authorization")
        self._headers = {"Authorization": token} if token else {}
        self._kinds: dict[str, list[Object]] = {}

    def call(self, method: str, path: str, body: Object | None = None, **query: str) -> Object:
        """Send a request; an apply's body is JSON, which is YAML.

        Raises:
            ApiError: the server refused.
            urllib3.exceptions.HTTPError: it cannot be reached.
        """
        kind = "application/apply-patch+yaml" if method == "PATCH" else "application/json"
        answer = self._pool.request_encode_url(
            method,
            self._host + path,
            fields=query,
            headers=self._headers | {"Content-Type": kind},
            **({} if body is None else {"body": json.dumps(body)}),
            retries=False,
            timeout=TIMEOUT_SECONDS,
        )
        content: Object = json.loads(answer.data) if answer.data[:1] == b"{" else {"message": answer.data.decode()}
        if answer.status >= 400:  # noqa: PLR2004 - where HTTP's errors begin
            raise ApiError(answer.status, content.get("message", ""))
        return content

    def path(self, manifest: Object, default_namespace: str) -> str:
        """Return the path of an object.

        Raises:
            ApiError: the server has no such kind.
        """
        version: str = manifest["apiVersion"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if version not in self._kinds:
            self._kinds[version] = self.call("GET", root)["resources"]
        found = [each for each in self._kinds[version] if each["kind"] == manifest["kind"] and "/" not in each["name"]]
        if not found:
            raise ApiError(404, f"the cluster has no {manifest['kind']} in {version}.")
        metadata = manifest["metadata"]
        place = f"/namespaces/{metadata.get('namespace') or default_namespace}" if found[0]["namespaced"] else ""
        return f"{root}{place}/{found[0]['name']}/{metadata['name']}"


class Kubernetes(Provider):
    """Kubernetes, any kind."""

    package = "kubernetes"

    def __init__(self) -> None:
        super().__init__()
        self._api: Api | None = None
        self._lock = threading.Lock()

    def failures(self) -> tuple[type[Exception], ...]:
        """Return what says that the server cannot be reached."""
        return (HTTPError,)

    def kind(self, token: str) -> Kind:
        """Return what a change of the kind replaces."""
        return Kind(replaces=(*EVERYWHERE, *REPLACES.get(token, ())))

    def known(self) -> Sequence[str]:
        """Return the usual kinds."""
        return ("pulumi:providers:kubernetes", *REPLACES)

    def schema(self, token: str) -> Schema:
        """Return the schema of a kind; of a custom one only the cluster knows it."""
        try:
            return super().schema(token)
        except SchemaError:
            return Schema(token, Shape({"*": "any"}, []), {}, {})

    def explain(self, error: Exception) -> str:
        """Say which server it is that cannot be reached."""
        return f"the Kubernetes API server cannot be reached: {error}" if isinstance(error, HTTPError) else str(error)

    def complete(self, request: CheckRequest, olds: Object, news: Object) -> None:
        """Name what has no name: the resource's name and eight hexadecimal digits, as the official provider does."""
        metadata = news.setdefault("metadata", {})
        if metadata != UNKNOWN and not metadata.get("name") and not metadata.get("generateName"):
            digits = f"{random.Random(request.randomSeed or None).getrandbits(32):08x}"  # noqa: S311 - unique, not secret
            old = olds["metadata"]["name"] if self.is_named(olds) else None
            metadata["name"] = old or f"{request.name[:54].lower()}-{digits}"
            metadata.setdefault("annotations", {})[AUTONAMED] = "true"

    def is_named(self, inputs: Object) -> bool:
        """Say whether the object has an automatic name."""
        return _annotation(inputs, AUTONAMED) == "true"

    def collides(self, kind: Kind, olds: Object, news: Object) -> bool:  # noqa: ARG002 - every kind's name is there
        """Say whether the new object would have the old one's name and namespace."""
        before, after = ([each["metadata"].get(key) for key in ("name", "namespace")] for each in (olds, news))
        return not self.is_named(news) and before == after

    def api(self) -> Api:
        """Return the API server that the provider's settings, or KUBECONFIG, name."""
        with self._lock:
            if self._api is None:
                given = self.config.get("kubeconfig") or os.environ.get("KUBECONFIG") or "~/.kube/config"
                try:
                    text = given if "\n" in given or given.startswith("{") else Path(given).expanduser().read_text()
                except OSError as error:
                    raise ProviderError(f"kubernetes:kubeconfig cannot be read: {error}") from error
                self._api = Api(yaml.safe_load(text), self.config.get("context"))
        return self._api

    def _path(self, manifest: Object) -> str:
        """Return the path of an object."""
        return self.api().path(manifest, self.config.get("namespace") or "default")

    def _apply(self, manifest: Object, manager: str, **query: str) -> Object:
        """Apply an object; the fields that another manager owns are left to it, unless the object asks for them."""
        force = str(_annotation(manifest, "pulumi.com/patchForce") == "true").lower()
        try:
            return self.api().call(
                "PATCH",
                self._path(manifest),
                manifest,
                fieldManager=manager,
                fieldValidation="Strict",
                force=force,
                **query,
            )
        except ApiError as error:
            if error.status != 409:  # noqa: PLR2004 - Conflict
                raise
            hint = 'To take the fields over, give the object the annotation pulumi.com/patchForce: "true".'
            raise ApiError(error.status, f"{error} {hint}") from error

    def _dry_run(self, manifest: Object, manager: str) -> Object | None:
        """Return what the server would make of it; None if it cannot tell: it, or the namespace, is yet to be made."""
        if UNKNOWN in json.dumps(manifest):
            return None
        try:
            return _visible(self._apply(manifest, manager, dryRun="All"))
        except (HTTPError, NotLoopbackError):
            return None
        except ApiError as error:
            if error.status == 404:  # noqa: PLR2004 - Not Found
                return None
            raise

    def preview(self, resource: Resource) -> Object:
        """Return what the server would make of it, of which it cannot tell the status."""
        outputs = super().preview(resource) | {"status": UNKNOWN}
        return outputs | _but_status(self._dry_run(resource.inputs, "pulumi-kubernetes") or {})

    def preview_update(self, resource: Resource, news: Object) -> Object:
        """Return what the server would make of it."""
        return super().preview_update(resource, news) | _but_status(self._dry_run(news, resource.state[MANAGER]) or {})

    def create(self, resource: Resource) -> Resource:
        """Create it and wait until it is ready."""
        manager = f"pulumi-kubernetes-{random.getrandbits(32):08x}"
        metadata = resource.inputs["metadata"]
        resource = replace(resource, state={MANAGER: manager})
        if self.read(resource) is not None:
            raise ProviderError(f"{resource.inputs['kind']} {metadata['name']} already exists.")
        live = self._apply(resource.inputs, manager)
        resource_id = "/".join(filter(None, (live["metadata"].get("namespace"), metadata["name"])))
        resource = replace(resource, id=resource_id)
        self._await(resource, live)
        return resource

    def read(self, resource: Resource) -> Object | None:
        """Return the live object."""
        manifest = _manifest(resource)
        try:
            live = _visible(self.api().call("GET", self._path(manifest)))
        except ApiError as error:
            if error.status == 404:  # noqa: PLR2004 - Not Found
                return None
            raise
        return live | {MANAGER: resource.state.get(MANAGER, "pulumi-kubernetes")}

    def drifted(self, resource: Resource, live: Object) -> Object:
        """Return the inputs with the live values of the fields that they manage."""
        data: dict[str, str] = live.get("data") or {}
        if "stringData" in resource.inputs:  # can be written and not read
            text = {key: base64.b64decode(data[key]).decode() for key in resource.inputs["stringData"] if key in data}
            live = live | {"stringData": text}
        return _managed(resource.inputs or _but_status(live), live)

    def update(self, resource: Resource, news: Object) -> None:
        """Apply it anew and wait until it is ready."""
        self._await(replace(resource, inputs=news), self._apply(news, resource.state[MANAGER]))

    def delete(self, resource: Resource) -> None:
        """Delete it and what it owns, and wait until it is gone."""
        manifest = _manifest(resource)
        policy = _annotation(manifest, "pulumi.com/deletionPropagationPolicy") or "Foreground"
        try:
            self.api().call("DELETE", self._path(manifest), {"propagationPolicy": policy.capitalize()})
        except ApiError as error:
            if error.status != 404:  # noqa: PLR2004 - Not Found
                raise
        self.wait(
            lambda: self.read(resource) is None, resource.timeout, lambda: f"{resource.id} is still being deleted"
        )

    # readiness

    def _await(self, resource: Resource, live: Object) -> None:
        if _annotation(resource.inputs, "pulumi.com/skipAwait") == "true":
            return
        timeout = float(_annotation(resource.inputs, "pulumi.com/timeoutSeconds") or resource.timeout)
        seen = [live]

        def ready() -> bool:
            seen[0] = self.read(resource) or {}
            return is_ready(seen[0])

        try:
            self.wait(ready, timeout, lambda: "; ".join(self._reasons(seen[0])))
        except ApiError:
            raise
        except ProviderError as error:
            raise InitializationError(resource, f"{live['kind']} {resource.id} is not ready: {error}") from error

    def _reasons(self, live: Object) -> Iterator[str]:
        """Yield why an object is not ready, in its own words and those of its pods."""
        status: Object = live.get("status") or {}
        for condition in status.get("conditions", ()):
            if condition.get("message"):
                yield f"{condition['type']}={condition['status']}: {condition['message']}"
        selector: dict[str, str] = live.get("spec", {}).get("selector", {}).get("matchLabels", {})
        if selector:
            labels = ",".join(f"{key}={value}" for key, value in selector.items())
            path = f"/api/v1/namespaces/{live['metadata']['namespace']}/pods"
            for pod in self.api().call("GET", path, labelSelector=labels)["items"]:
                yield from _pod_reasons(pod)


def _pod_reasons(pod: Object) -> Iterator[str]:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for condition in status.get("conditions", ()):
        if condition["status"] != "True" and condition.get("message"):
            yield f"pod {name}: {condition.get('reason', condition['type'])}: {condition['message']}"
    for container in status.get("containerStatuses", ()):
        waiting = container.get("state", {}).get("waiting", {})
        if waiting:
            yield f"pod {name}: {waiting.get('reason', '')} {waiting.get('message', '')}".strip()


def is_ready(live: Object) -> bool:
    """Say whether an object does what it is for.

    Raises:
        ProviderError: it never will.
    """
    spec: Object = live.get("spec") or {}
    status: Object = live.get("status") or {}
    conditions: dict[str, Object] = {each["type"]: each for each in status.get("conditions", ())}
    true = {name for name, condition in conditions.items() if condition["status"] == "True"}
    progress = conditions.get("Progressing", {})
    if progress.get("reason") == "ProgressDeadlineExceeded" or (live.get("kind") == "Job" and "Failed" in true):
        raise ProviderError(conditions.get("Failed", progress).get("message", "it failed"))

    def counts(*names: str) -> set[int]:
        return {status.get(name, 0) for name in names}

    seen = status.get("observedGeneration", 0) >= live.get("metadata", {}).get("generation", 0)
    wanted = {spec.get("replicas", 1)}
    ready = {
        "Deployment": seen and "Available" in true
        and counts("replicas", "updatedReplicas", "availableReplicas") == wanted,
        "StatefulSet": seen and counts("readyReplicas", "updatedReplicas") == wanted,
        "DaemonSet": seen and counts("numberReady", "updatedNumberScheduled") == counts("desiredNumberScheduled"),
        "Service": spec.get("type") != "LoadBalancer" or bool(status.get("loadBalancer", {}).get("ingress")),
        "Pod": "Ready" in true or status.get("phase") == "Succeeded",
        "Job": "Complete" in true,
        "PersistentVolumeClaim": status.get("phase") == "Bound",
        "CustomResourceDefinition": "Established" in true,
    }  # fmt: skip
    return ready.get(live.get("kind", ""), bool(live))


def _manifest(resource: Resource) -> Object:
    """Return what is known of an object; of one to `get` or import that is its type and id."""
    _, version, kind = resource.token.split(":")
    namespace, _, name = resource.id.rpartition("/")
    named = {
        "apiVersion": version.removeprefix("core/"),
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
    }
    return named | resource.state | resource.inputs


def _annotation(manifest: Object, name: str) -> str | None:
    metadata = manifest.get("metadata", UNKNOWN)
    annotations = metadata if metadata == UNKNOWN else metadata.get("annotations")
    return cast("Object", annotations).get(name) if isinstance(annotations, dict) else None


def _visible(live: Object) -> Object:
    """Return an object without the record of who manages which field."""
    return live | {"metadata": {key: item for key, item in live["metadata"].items() if key != "managedFields"}}


def _but_status(live: Object) -> Object:
    """Return what a dry run knows: neither a status nor what the server gives to each write."""
    passing = ("uid", "resourceVersion", "creationTimestamp", "generation")
    known = {key: item for key, item in live.items() if key not in ("status", "metadata")}
    metadata = live.get("metadata", {})
    return known | ({"metadata": {key: item for key, item in metadata.items() if key not in passing}} if live else {})


def _managed(old: Value, live: Value) -> Value:
    """Return the live values of those fields that are in `old`."""
    if isinstance(old, dict) and isinstance(live, dict):
        values = cast("Object", live)
        return {key: _managed(item, values[key]) for key, item in cast("Object", old).items() if key in values}
    if isinstance(old, list) and isinstance(live, list):
        before, now = cast("list[Any]", old), cast("list[Any]", live)
        if len(before) == len(now):
            return [_managed(item, other) for item, other in zip(before, now, strict=True)]
    return cast("Value", old if same(old, live) else live)


if __name__ == "__main__":
    serve(Kubernetes())
