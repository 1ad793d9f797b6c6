"""The containers of the simulated T4 nodes: one real Triton for each Deployment of Tritons.

kwok's nodes run no containers. So for each Deployment whose container is a ``tritonserver``, once it has a ready pod,
one Triton runs here with the container's own arguments and environment, and reads its ``gs://`` repository from the
emulated Cloud Storage. It answers at the addresses of the LoadBalancer Services that select the Deployment's pods.

Run as ``python -m localcloud.gke_node --kubeconfig FILE --gcs URL --state FOLDER``.
"""

import argparse
import functools
import json
import logging
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from google.api_core.exceptions import GoogleAPIError
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from kubernetes import client, config, watch
from urllib3.exceptions import HTTPError

from localcloud.pod import LOOPBACK, Address, PodError, isolation_refused, relay_in_background
from localcloud.triton import HTTP_PORT, Triton, TritonError, check_repository, install, kubernetes_arguments
from model_repo.manifest import ManifestError

_LOG = logging.getLogger(__name__)
_RETRY_SECONDS = 10.0
"""How long a container that failed is left alone, as kubelet's first back-off."""
_STARTUP_SECONDS = 120
_RESYNC_SECONDS = 2
"""The longest that a change of a Service, or a Triton's end, goes unseen; Deployments are watched."""

Json = dict[str, Any]
"""An object in the JSON form of the Kubernetes API."""


@dataclass
class _Served:
    """A Deployment: what runs for it, and what was last tried."""

    triton: Triton | None = None
    container: Json = field(default_factory=dict[str, Any])
    """The container that ``triton`` is."""
    tried: str = ""
    tried_at: float = 0.0
    warnings: set[str] = field(default_factory=set[str])


class Node:
    """All T4 nodes of one cluster.

    Args:
        api: The cluster.
        gcs: URL of the emulated Cloud Storage.
        state: Folder for logs and one ``<namespace>-<deployment>.json`` for each Deployment.

    Raises:
        TritonError: There is no Triton on this machine.
    """

    def __init__(self, api: client.ApiClient, gcs: str, state: Path) -> None:
        self._core, self._apps = client.CoreV1Api(api), client.AppsV1Api(api)
        self._gcs = gcs
        self._state = state
        self._installed = install(state / ".triton")
        self._served: dict[str, _Served] = {}
        self._relays: dict[Address, Callable[[], None]] = {}
        """For each address of a Service, what ends its relay."""

    def run(self) -> None:
        """Follow the cluster until the process is told to end."""
        events: Any = watch.Watch()
        while True:
            try:
                self._reconcile()
                for _ in events.stream(self._apps.list_deployment_for_all_namespaces, timeout_seconds=_RESYNC_SECONDS):
                    self._reconcile()
            except (client.ApiException, HTTPError) as error:
                _LOG.warning("the API server does not answer, trying again: %s", error)
                time.sleep(1)

    def close(self) -> None:
        """Stop every Triton."""
        for served in self._served.values():
            if served.triton:
                served.triton.stop()

    def _reconcile(self) -> None:
        found = _items(self._apps.list_deployment_for_all_namespaces)
        deployments = {_key(one): one for one in found if _runs_triton(one)}
        for key in self._served.keys() - deployments.keys():
            if triton := self._served.pop(key).triton:
                triton.stop()
            self._record(key).unlink(missing_ok=True)
        for key, deployment in deployments.items():
            served = self._served.setdefault(key, _Served())
            if _rolled_out(deployment) and _is_due(served, deployment):
                self._start(key, served, deployment)
        self._follow_services(deployments)

    def _start(self, key: str, served: _Served, deployment: Json) -> None:
        """Start a Triton for the Deployment; the one before it serves until the new one is ready."""
        served.tried, served.tried_at = _template(deployment), time.monotonic()
        container = _container(deployment)
        record: Json = {"ready": False, "error": None, "untested": None}
        try:
            bucket, prefix = _repository(kubernetes_arguments(container))
            record["digest"] = prefix.rpartition("/")[2]
            self._check(bucket, prefix, self._state / key / "check")
            log = self._state / key / f"triton-{deployment['metadata']['generation']}.log"
            triton = self._launch(container, log)
        except (TritonError, PodError, ManifestError, GoogleAPIError) as error:
            record["error"] = str(error)
            self._warn(deployment, str(error))
        else:
            old, served.triton, served.container = served.triton, triton, container
            record |= {"ready": True, "pid": triton.pod.pid, "argv": triton.arguments}
            record["environment"] = triton.environment
            if refused := isolation_refused():
                record["untested"] = f"the addresses that the container listens on: no network namespace, {refused}"
            if old:
                old.stop()
        self._record(key).write_text(json.dumps(record, indent=2))

    def _launch(self, container: Json, log: Path) -> Triton:
        arguments = kubernetes_arguments(container)
        if isolation_refused():
            arguments += [f"--{server}-address={LOOPBACK}" for server in ("http", "grpc", "metrics")]
        ready = _readiness(container)
        return Triton(
            self._installed,
            arguments,
            {**_environment(container), "CLOUD_STORAGE_EMULATOR_ENDPOINT": self._gcs},
            ports=sorted({ready[0], *(one["containerPort"] for one in container.get("ports", []))}),
            ready=ready,
            seconds=_STARTUP_SECONDS,
            log=log,
            outbound=[urlsplit(self._gcs).port or 80],
        )

    def _check(self, bucket: str, prefix: str, folder: Path) -> None:
        """Hold what Triton is going to read against its digest."""
        shutil.rmtree(folder, ignore_errors=True)
        gcs: Any = storage.Client("local", AnonymousCredentials(), client_options={"api_endpoint": self._gcs})
        for blob in gcs.list_blobs(bucket, prefix=f"{prefix}/"):
            path = folder / blob.name.removeprefix(f"{prefix}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            blob.download_to_filename(str(path))
        if not folder.exists():
            raise TritonError(f"gs://{bucket}/{prefix} has no objects: upload the model repository first")
        check_repository(folder, prefix.rpartition("/")[2])
        shutil.rmtree(folder)

    def _follow_services(self, deployments: dict[str, Json]) -> None:
        """Listen at each address of each Service of type LoadBalancer, and nowhere else."""
        services = _items(self._core.list_service_for_all_namespaces)
        wanted: dict[Address, tuple[str, int | str]] = {
            (ingress["ip"], port["port"]): (key, port.get("targetPort", port["port"]))
            for key, deployment in deployments.items()
            for service in services
            if _selects(service, deployment)
            for ingress in service["status"]["loadBalancer"].get("ingress", [])
            for port in service["spec"]["ports"]
        }
        for address in self._relays.keys() - wanted.keys():
            self._relays.pop(address)()
        for address in wanted.keys() - self._relays.keys():
            key, target = wanted[address]
            try:
                listener = socket.create_server(address)
            except OSError as error:
                self._warn(deployments[key], f"its Service cannot listen on {address[0]}:{address[1]}: {error}")
                continue
            destination = functools.partial(self._destination, key, target)
            self._relays[address] = relay_in_background(listener, destination)

    def _destination(self, key: str, target: int | str) -> Address | None:
        served = self._served.get(key, _Served())
        return served.triton and served.triton.pod.addresses.get(_port(served.container, target))

    def _record(self, key: str) -> Path:
        return self._state / f"{key}.json"

    def _warn(self, deployment: Json, message: str) -> None:
        """Say it once, where ``kubectl describe`` shows it."""
        metadata, warnings = deployment["metadata"], self._served[_key(deployment)].warnings
        if message in warnings:
            return
        warnings.add(message)
        _LOG.error("%s: %s", _key(deployment), message)
        name, namespace, now = metadata["name"], metadata["namespace"], datetime.now(UTC)
        event = client.CoreV1Event(
            metadata=client.V1ObjectMeta(generate_name=f"{name}."),
            involved_object=client.V1ObjectReference(
                api_version="apps/v1", kind="Deployment", name=name, namespace=namespace, uid=metadata["uid"]
            ),
            type="Warning",
            reason="TritonFailed",
            message=message[:1024],
            source=client.V1EventSource(component="gke-node"),
            first_timestamp=now,
            last_timestamp=now,
            count=1,
        )
        self._core.create_namespaced_event(namespace, event)


def _items(list_all: Callable[..., Any]) -> list[Json]:
    return json.loads(list_all(_preload_content=False).data)["items"]


def _runs_triton(deployment: Json) -> bool:
    command = _container(deployment).get("command", [])
    return bool(command) and Path(command[0]).name == "tritonserver"


def _is_due(served: _Served, deployment: Json) -> bool:
    """Whether a Triton is to be started: for a new template, or where the last one ended or failed a while ago."""
    if served.tried != _template(deployment):
        return True
    runs = served.triton is not None and served.triton.pod.alive
    return not runs and time.monotonic() > served.tried_at + _RETRY_SECONDS


def _key(deployment: Json) -> str:
    return f"{deployment['metadata']['namespace']}-{deployment['metadata']['name']}"


def _container(deployment: Json) -> Json:
    return deployment["spec"]["template"]["spec"]["containers"][0]


def _template(deployment: Json) -> str:
    return json.dumps(deployment["spec"]["template"], sort_keys=True)


def _rolled_out(deployment: Json) -> bool:
    """Whether the nodes would run its containers: the controller has seen this generation, and a pod is ready."""
    status = deployment["status"]
    return status.get("observedGeneration") == deployment["metadata"]["generation"] and bool(
        status.get("readyReplicas")
    )


def _repository(arguments: list[str]) -> tuple[str, str]:
    for argument in arguments:
        if match := re.fullmatch(r"--model-repository=gs://([^/]+)/(.+?)/?", argument):
            return match[1], match[2]
    raise TritonError(f"no --model-repository=gs://BUCKET/models/NAME/DIGEST among {arguments}")


def _environment(container: Json) -> dict[str, str]:
    variables: list[Json] = container.get("env", [])
    if derived := [one["name"] for one in variables if "valueFrom" in one]:
        raise TritonError(f"env {', '.join(derived)}: the local node has no valueFrom; give plain values")
    return {one["name"]: one.get("value", "") for one in variables}


def _port(container: Json, number_or_name: int | str) -> int:
    named = {one.get("name"): one["containerPort"] for one in container.get("ports", [])}
    return int(named.get(number_or_name, number_or_name))


def _readiness(container: Json) -> tuple[int, str]:
    """The port and path by which kubelet would see that it is ready."""
    probe: Json = container.get("readinessProbe", {}).get("httpGet", {})
    return _port(container, probe.get("port", HTTP_PORT)), probe.get("path", "/v2/health/ready")


def _selects(service: Json, deployment: Json) -> bool:
    spec, labels = service["spec"], deployment["spec"]["template"]["metadata"].get("labels", {})
    return (
        spec["type"] == "LoadBalancer"
        and service["metadata"]["namespace"] == deployment["metadata"]["namespace"]
        and (spec.get("selector") or {"": ""}).items() <= labels.items()
    )


def _end(*_: object) -> None:
    sys.exit(0)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m localcloud.gke_node")
    parser.add_argument("--kubeconfig", required=True, help="file for the cluster's administrator")
    parser.add_argument("--gcs", required=True, help="URL of the emulated Cloud Storage")
    parser.add_argument("--state", type=Path, required=True, help="folder for logs and records")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, _end)
    untyped: Any = config
    node = Node(untyped.new_client_from_config(arguments.kubeconfig), arguments.gcs, arguments.state / "gke")
    try:
        node.run()
    finally:
        node.close()


if __name__ == "__main__":
    _main()
