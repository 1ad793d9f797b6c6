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
from kubernetes import client, config
from urllib3.exceptions import HTTPError

from localcloud.pod import Address, PodError, relay_in_background
from localcloud.triton import HTTP_PORT, Triton, TritonError, fetch_repository, install, kubernetes_arguments
from model_repo.manifest import ManifestError

_LOG = logging.getLogger(__name__)
_POLL_SECONDS = 0.5
_RETRY_SECONDS = 10.0
"""How long a container that failed is left alone, as kubelet's first back-off."""
_STARTUP_SECONDS = 120

Json = dict[str, Any]
"""An object in the JSON form of the Kubernetes API."""


@dataclass
class _Served:
    """A Deployment: what runs for it, and what was last tried."""

    triton: Triton | None = None
    tried: Json | None = None
    """The pod template."""
    tried_at: float = 0.0
    warnings: set[str] = field(default_factory=set[str])

    def is_due(self, deployment: Json) -> bool:
        """Whether a Triton is to be started: the template is new, or the last one ended or failed a while ago."""
        status = deployment["status"]
        rolled_out = status.get("observedGeneration") == deployment["metadata"]["generation"]
        if not (rolled_out and status.get("readyReplicas")):  # no node would run its containers yet
            return False
        runs = self.triton is not None and self.triton.pod.alive
        failed = not runs and time.monotonic() > self.tried_at + _RETRY_SECONDS
        return failed or self.tried != deployment["spec"]["template"]


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
        self._targets: dict[Address, tuple[str, int]] = {}
        """For each address of a Service, the Deployment that it selects and the port inside."""
        self._relays: dict[Address, Callable[[], None]] = {}
        """For each address of a Service, what ends its relay."""

    def run(self) -> None:
        """Follow the cluster until the process is told to end."""
        while True:
            try:
                self._reconcile()
            except (client.ApiException, HTTPError) as error:
                _LOG.warning("the API server does not answer, trying again: %s", error)
            time.sleep(_POLL_SECONDS)

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
            if served.is_due(deployment):
                self._start(key, served, deployment)
        self._follow_services(deployments)

    def _start(self, key: str, served: _Served, deployment: Json) -> None:
        """Start a Triton for the Deployment; the one before it serves until the new one is ready."""
        served.tried, served.tried_at = deployment["spec"]["template"], time.monotonic()
        container, folder = _container(deployment), self._state / key
        record: Json = {"ready": False, "error": None}
        try:
            bucket, prefix = _repository(kubernetes_arguments(container))
            record["digest"] = prefix.split("/")[-2]
            self._check(bucket, prefix, folder / "check")
            triton = self._launch(container, folder / f"triton-{deployment['metadata']['generation']}.log")
        except (TritonError, PodError, ManifestError, GoogleAPIError) as error:
            record["error"] = str(error)
            self._warn(deployment, str(error))
        else:
            record |= {"ready": True, **triton.record()}
            old, served.triton = served.triton, triton
            if old:
                old.stop()
        self._record(key).write_text(json.dumps(record, indent=2))

    def _check(self, bucket: str, prefix: str, folder: Path) -> None:
        """Hold what Triton is going to read against its digest."""
        gcs: Any = storage.Client("local", AnonymousCredentials(), client_options={"api_endpoint": self._gcs})
        blobs = ((blob.name, blob.download_to_filename) for blob in gcs.list_blobs(bucket, prefix=prefix))
        fetch_repository(blobs, prefix, folder)
        shutil.rmtree(folder)

    def _launch(self, container: Json, log: Path) -> Triton:
        environment = {one["name"]: one["value"] for one in container.get("env", [])}
        probe: Json = container.get("readinessProbe", {}).get("httpGet", {})
        ready_port = _port(container, probe.get("port", HTTP_PORT))
        return Triton(
            self._installed,
            kubernetes_arguments(container),
            {**environment, "CLOUD_STORAGE_EMULATOR_ENDPOINT": self._gcs},
            ports=sorted({ready_port, *(one["containerPort"] for one in container.get("ports", []))}),
            ready=(ready_port, probe.get("path", "/v2/health/ready")),
            seconds=_STARTUP_SECONDS,
            log=log,
            outbound=[urlsplit(self._gcs).port or 80],
        )

    def _follow_services(self, deployments: dict[str, Json]) -> None:
        """Listen at each address of each Service of type LoadBalancer, and nowhere else."""
        services = _items(self._core.list_service_for_all_namespaces)
        self._targets = {
            (ingress["ip"], port["port"]): (key, _port(_container(deployment), port.get("targetPort", port["port"])))
            for key, deployment in deployments.items()
            for service in services
            if _selects(service, deployment)
            for ingress in service["status"]["loadBalancer"].get("ingress", [])
            for port in service["spec"]["ports"]
        }
        for address in self._relays.keys() - self._targets.keys():
            self._relays.pop(address)()
        for address in self._targets.keys() - self._relays.keys():
            try:
                listener = socket.create_server(address)
            except OSError as error:
                deployment = deployments[self._targets[address][0]]
                self._warn(deployment, f"its Service cannot listen on {address[0]}:{address[1]}: {error}")
            else:
                destination = functools.partial(self._destination, address)
                self._relays[address] = relay_in_background(listener, destination)

    def _destination(self, address: Address) -> Address | None:
        key, port = self._targets.get(address, ("", 0))
        served = self._served.get(key, _Served())
        return served.triton and served.triton.pod.addresses.get(port)

    def _record(self, key: str) -> Path:
        return self._state / f"{key}.json"

    def _warn(self, deployment: Json, message: str) -> None:
        """Say it once, where ``kubectl describe`` shows it."""
        metadata, warnings = deployment["metadata"], self._served[_key(deployment)].warnings
        if message in warnings:
            return
        warnings.add(message)
        _LOG.error("%s: %s", _key(deployment), message)
        name, namespace, now = metadata["name"], metadata["namespace"], datetime.now(UTC).isoformat()
        event: Json = {
            "metadata": {"generateName": f"{name}."},
            "involvedObject": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "namespace": namespace}
            | {"uid": metadata["uid"]},
            "type": "Warning",
            "reason": "TritonFailed",
            "message": message[:1024],
            "source": {"component": "gke-node"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        untyped: Any = self._core
        untyped.create_namespaced_event(namespace, event)


def _items(list_all: Callable[..., Any]) -> list[Json]:
    return json.loads(list_all(_preload_content=False).data)["items"]


def _key(deployment: Json) -> str:
    return f"{deployment['metadata']['namespace']}-{deployment['metadata']['name']}"


def _container(deployment: Json) -> Json:
    return deployment["spec"]["template"]["spec"]["containers"][0]


def _runs_triton(deployment: Json) -> bool:
    command = _container(deployment).get("command", [])
    return bool(command) and Path(command[0]).name == "tritonserver"


def _repository(arguments: list[str]) -> tuple[str, str]:
    for argument in arguments:
        if match := re.fullmatch(r"--model-repository=gs://([^/]+)/(.+?)/?", argument):
            return match[1], f"{match[2]}/"
    raise TritonError(f"no --model-repository=gs://BUCKET/models/NAME/DIGEST among {arguments}")


def _port(container: Json, number_or_name: int | str) -> int:
    named = {one.get("name"): one["containerPort"] for one in container.get("ports", [])}
    return int(named.get(number_or_name, number_or_name))


def _selects(service: Json, deployment: Json) -> bool:
    spec, labels = service["spec"], deployment["spec"]["template"]["metadata"].get("labels", {})
    return (
        spec["type"] == "LoadBalancer"
        and service["metadata"]["namespace"] == deployment["metadata"]["namespace"]
        and (spec.get("selector") or {"": ""}).items() <= labels.items()
    )


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m localcloud.gke_node")
    parser.add_argument("--kubeconfig", required=True, help="file for the cluster's administrator")
    parser.add_argument("--gcs", required=True, help="URL of the emulated Cloud Storage")
    parser.add_argument("--state", type=Path, required=True, help="folder for logs and records")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(0))
    untyped: Any = config
    node = Node(untyped.new_client_from_config(arguments.kubeconfig), arguments.gcs, arguments.state / "gke")
    try:
        node.run()
    finally:
        node.close()


if __name__ == "__main__":
    _main()
