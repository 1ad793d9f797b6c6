"""The simulated T4 nodes' containers: a real Triton behind a Deployment and its Service."""

import importlib
import json
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from kubernetes import client, config
from processes import gone
from tiny_model import CONFIG, prefix_of, write_repository

from localcloud.cloud import LocalCloud, Ports
from model_repo.manifest import MANIFEST_NAME, Manifest

triton_http: Any = importlib.import_module("tritonclient.http")  # untyped
triton_grpc: Any = importlib.import_module("tritonclient.grpc")
kube_config: Any = config

BUCKET = "tiny-models"


class Cluster:
    """A local cloud, and what a user does with it."""

    def __init__(self, cloud: LocalCloud) -> None:
        api = kube_config.new_client_from_config(str(cloud.state / "kubeconfig"))
        self.apps: Any = client.AppsV1Api(api)
        self.core: Any = client.CoreV1Api(api)
        self.state = cloud.state / "gke"
        endpoint = {"api_endpoint": cloud.gcs_url}
        gcs: Any = storage.Client("local", AnonymousCredentials(), client_options=endpoint)
        self.bucket = gcs.create_bucket(BUCKET)

    def publish(self, folder: Path, config_pbtxt: str = CONFIG) -> Manifest:
        """Upload a tiny repository made in ``folder``."""
        manifest = write_repository(folder, config_pbtxt)
        for path in (MANIFEST_NAME, *(file.path for file in manifest.files)):
            self.bucket.blob(f"{prefix_of(manifest)}/{path}").upload_from_filename(str(folder / path))
        return manifest

    def record(self, name: str, ready: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """What the node says of the Deployment, once it is so."""
        path, deadline = self.state / f"default-{name}.json", time.monotonic() + 60
        while time.monotonic() < deadline:
            if path.exists() and ready(record := json.loads(path.read_bytes())):
                return record
            time.sleep(0.05)
        raise TimeoutError(path.read_text() if path.exists() else f"{path} is not there")

    def double(self, name: str, library: Any, port: int) -> list[list[float]]:
        """What the Service makes of [1, 2, 3, 4]."""
        service = self.core.read_namespaced_service(name, "default")
        with library.InferenceServerClient(f"{service.status.load_balancer.ingress[0].ip}:{port}") as triton:
            tensor = library.InferInput("x", [1, 4], "FP32")
            tensor.set_data_from_numpy(np.array([[1, 2, 3, 4]], dtype=np.float32))
            return triton.infer("tiny", [tensor]).as_numpy("y").tolist()


def deployment(name: str, manifest: Manifest, *arguments: str) -> dict[str, Any]:
    container = {
        "name": "triton",
        "image": "triton",
        "command": ["tritonserver"],
        "args": [f"--model-repository=gs://{BUCKET}/{prefix_of(manifest)}", "--http-port=8000", *arguments],
        "env": [{"name": "TZ", "value": "UTC"}],
        "ports": [{"name": "http", "containerPort": 8000}, {"name": "grpc", "containerPort": 8001}],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": "http"}},
    }
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template}
    return {"metadata": {"name": name}, "spec": spec}


def service(name: str, first_port: int) -> dict[str, Any]:
    ports = [
        {"name": "http", "port": first_port, "targetPort": "http"},
        {"name": "grpc", "port": first_port + 1, "targetPort": 8001},
    ]
    return {"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": ports}}


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    with LocalCloud(tmp_path_factory.mktemp("cloud"), Ports.free(), t4_nodes=1) as cloud:
        yield Cluster(cloud)


def test_a_deployment_is_served_with_its_own_arguments_followed_and_removed(cluster: Cluster, tmp_path: Path) -> None:
    first, second = cluster.publish(tmp_path / "a"), cluster.publish(tmp_path / "b", CONFIG.replace("8", "4"))
    specification = deployment("triton", first)
    cluster.apps.create_namespaced_deployment("default", specification)
    cluster.core.create_namespaced_service("default", service("triton", 28000))
    record = cluster.record("triton", lambda record: record["ready"])
    assert record["digest"] == first.digest
    arguments = specification["spec"]["template"]["spec"]["containers"][0]["args"]
    assert psutil.Process(record["pid"]).cmdline() == record["argv"]
    assert record["argv"][1 : 1 + len(arguments)] == arguments
    assert record["environment"]["TZ"] == "UTC"

    def answers() -> bool:
        read = cluster.core.read_namespaced_service("triton", "default")
        address = read.status.load_balancer.ingress and read.status.load_balancer.ingress[0].ip
        listening = [sock for sock in psutil.net_connections("tcp") if sock.status == psutil.CONN_LISTEN]
        return {(address, 28000), (address, 28001)} <= {tuple(sock.laddr) for sock in listening}

    assert eventually(answers)
    assert cluster.double("triton", triton_http, 28000) == [[2, 4, 6, 8]]
    assert cluster.double("triton", triton_grpc, 28001) == [[2, 4, 6, 8]]

    cluster.apps.replace_namespaced_deployment("triton", "default", deployment("triton", second))
    after = cluster.record("triton", lambda record: record["digest"] == second.digest)
    assert after["ready"]
    assert gone(record["pid"])
    assert cluster.double("triton", triton_grpc, 28001) == [[2, 4, 6, 8]]

    cluster.core.delete_namespaced_service("triton", "default")
    cluster.apps.delete_namespaced_deployment("triton", "default")
    assert eventually(lambda: gone(after["pid"]))
    assert eventually(lambda: not (cluster.state / "default-triton.json").exists())


def test_a_digest_that_does_not_load_is_an_event_and_the_old_one_serves_on(cluster: Cluster, tmp_path: Path) -> None:
    good, bad = cluster.publish(tmp_path / "a"), cluster.publish(tmp_path / "b", CONFIG.replace("FP32", "FP64"))
    cluster.apps.create_namespaced_deployment("default", deployment("kept", good))
    pid = cluster.record("kept", lambda record: record["ready"])["pid"]
    cluster.apps.replace_namespaced_deployment("kept", "default", deployment("kept", bad))
    error = cluster.record("kept", lambda record: record["digest"] == bad.digest)["error"]
    assert "input x TYPE_FP64 is not in the ONNX file, which has: x TYPE_FP32" in error
    assert not gone(pid)
    events = [one for one in cluster.core.list_namespaced_event("default").items if one.reason == "TritonFailed"]
    assert [(one.involved_object.name, one.message) for one in events] == [("kept", error)]
    cluster.apps.delete_namespaced_deployment("kept", "default")
    assert eventually(lambda: gone(pid))
