"""The control plane: real servers, simulated nodes."""

import base64
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import yaml

from localcloud.cloud import Ports
from localcloud.control_plane import ControlPlane
from localcloud.supervisor import port_is_free
from localcloud.toolchain import Tools, find_or_build

Found = TypeVar("Found")


def silent(_: str) -> None:
    """Read no report."""


def control_plane(
    state: Path, tools: Tools, ports: Ports, *, t4_nodes: int, authority: Path | None = None
) -> ControlPlane:
    return ControlPlane(
        state,
        tools,
        port=ports.kubernetes,
        etcd_port=ports.etcd,
        etcd_peer_port=ports.etcd_peer,
        t4_nodes=t4_nodes,
        authority=authority,
    )


class Cluster:
    """A control plane in a folder of its own, and kubectl for it."""

    def __init__(self, state: Path, tools: Tools, *, authority: Path | None = None) -> None:
        self.state, self.tools, self.ports = state, tools, Ports.free()
        self._authority = authority
        self.plane = self.of_size(2)

    def of_size(self, t4_nodes: int) -> ControlPlane:
        return control_plane(self.state, self.tools, self.ports, t4_nodes=t4_nodes, authority=self._authority)

    def run(
        self, *arguments: str, given: Any = None, kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.tools.kubernetes / "kubectl", "--kubeconfig", kubeconfig or self.plane.kubeconfig, *arguments],
            env=os.environ | {"PATH": f"{self.state / 'bin'}:{os.environ['PATH']}"},
            input=json.dumps(given),
            capture_output=True,
            text=True,
            check=False,
        )

    def get(self, *arguments: str) -> Any:
        result = self.run("get", *arguments, "--output=json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def apply(self, one: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
        return self.run("apply", "--server-side", *options, "--filename=-", given=one)

    def pid(self, name: str) -> int:
        return json.loads((self.state / "pids" / f"{name}.json").read_text())["pid"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), find_or_build(silent))
    cluster.plane.up(silent)
    yield cluster
    cluster.plane.down()


def eventually(look: Callable[[], Found]) -> Found:
    """What a look finds as soon as it finds anything, within 20 s."""
    deadline = time.monotonic() + 20
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come about in 20 s"
        time.sleep(0.1)
    return found


def gpu_deployment(name: str, replicas: int, *, tolerations: list[dict[str, str]]) -> dict[str, Any]:
    container = {"name": "triton", "image": "tritonserver", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "nodeSelector": {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"},
                    "tolerations": tolerations,
                    "containers": [container],
                },
            },
        },
    }


TOLERATES_GPU = [{"key": "nvidia.com/gpu", "operator": "Equal", "value": "present", "effect": "NoSchedule"}]


def pods_in(cluster: Cluster, app: str, phase: str) -> list[dict[str, Any]]:
    return [pod for pod in cluster.get("pods", f"--selector=app={app}")["items"] if pod["status"]["phase"] == phase]


def why_unscheduled(cluster: Cluster, app: str) -> str:
    conditions = [c for pod in pods_in(cluster, app, "Pending") for c in pod["status"].get("conditions", [])]
    return "".join(c.get("message", "") for c in conditions if c["type"] == "PodScheduled")


def test_the_t4_nodes_look_as_gke_makes_them(cluster: Cluster):
    nodes = {node["metadata"]["name"]: node for node in cluster.get("nodes")["items"]}
    assert sorted(nodes) == ["system-0", "t4-0", "t4-1"]
    t4 = nodes["t4-0"]
    assert t4["metadata"]["labels"]["cloud.google.com/gke-accelerator"] == "nvidia-tesla-t4"
    assert t4["spec"]["taints"] == [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
    assert t4["status"]["allocatable"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in nodes["system-0"]["status"]["allocatable"]
    assert "taints" not in nodes["system-0"]["spec"]


def test_of_three_pods_with_a_gpu_each_two_run_on_two_t4_nodes(cluster: Cluster):
    cluster.apply(gpu_deployment("three", 3, tolerations=TOLERATES_GPU))
    running = eventually(lambda: pods if len(pods := pods_in(cluster, "three", "Running")) == 2 else [])
    assert {pod["spec"]["nodeName"] for pod in running} == {"t4-0", "t4-1"}
    assert "2 Insufficient nvidia.com/gpu" in eventually(lambda: why_unscheduled(cluster, "three"))
    cluster.run("delete", "deployment", "three")
    eventually(lambda: not cluster.get("pods", "--selector=app=three")["items"])


def test_a_pod_that_does_not_tolerate_the_gpu_taint_is_not_placed(cluster: Cluster):
    cluster.apply(gpu_deployment("intolerant", 1, tolerations=[]))
    assert "untolerated taint" in eventually(lambda: why_unscheduled(cluster, "intolerant"))
    cluster.run("delete", "deployment", "intolerant")


def test_a_load_balancer_gets_an_address_and_other_services_none(cluster: Cluster):
    for kind in ("LoadBalancer", "ClusterIP"):
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": kind.lower(), "namespace": "default"},
                "spec": {"type": kind, "selector": {"app": "triton"}, "ports": [{"name": "http", "port": 8000}]},
            }
        )
    ingress = eventually(
        lambda: cluster.get("service", "loadbalancer")["status"]["loadBalancer"].get("ingress"),
    )
    assert ingress[0]["ip"] == "127.0.0.1"
    assert cluster.get("service", "clusterip")["status"]["loadBalancer"] == {}


def test_a_misspelt_field_is_refused(cluster: Cluster):
    deployment = gpu_deployment("misspelt", 1, tolerations=TOLERATES_GPU)
    deployment["spec"]["replica"] = 1
    refused = cluster.apply(deployment, "--validate=false")  # kubectl leaves it to the server
    assert refused.returncode != 0
    assert ".spec.replica: field not declared in schema" in refused.stderr


def test_a_kubeconfig_made_the_gke_way_logs_in(cluster: Cluster, tmp_path: Path):
    authority = yaml.safe_load(cluster.plane.kubeconfig.read_text())["clusters"][0]["cluster"]
    login = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": "gke-gcloud-auth-plugin",
        "interactiveMode": "IfAvailable",
        "provideClusterInfo": True,
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "gke", "cluster": authority}],
        "users": [{"name": "gke", "user": {"exec": login}}],
        "contexts": [{"name": "gke", "context": {"cluster": "gke", "user": "gke"}}],
        "current-context": "gke",
    }
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    assert cluster.run("auth", "can-i", "create", "namespaces", kubeconfig=kubeconfig).stdout.strip() == "yes"


def test_the_servers_listen_on_loopback_only(cluster: Cluster):
    pids = {
        cluster.pid(name) for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
    }
    listening = [c for c in psutil.net_connections("inet") if c.pid in pids and c.status == psutil.CONN_LISTEN]
    addresses = {(c.laddr.ip, c.laddr.port) for c in listening if c.laddr}
    ports = (cluster.ports.kubernetes, cluster.ports.etcd, cluster.ports.etcd_peer)
    assert addresses == {("127.0.0.1", port) for port in ports}


def test_coming_up_again_changes_nothing(cluster: Cluster):
    before = [cluster.pid(name) for name in ("etcd", "kube-apiserver", "kwok")]
    assert cluster.plane.up(silent) == []
    assert [cluster.pid(name) for name in ("etcd", "kube-apiserver", "kwok")] == before


@pytest.mark.parametrize("name", ["etcd", "kube-apiserver", "kube-controller-manager", "kwok"])
def test_a_killed_process_comes_back_with_all_objects(cluster: Cluster, name: str):
    made = cluster.run("create", "namespace", f"kept-over-{name}")
    assert made.returncode == 0, made.stderr
    killed = psutil.Process(cluster.pid(name))
    killed.kill()
    killed.wait()
    # A process that died may take down others for a moment; what counts is that all is well afterwards.
    assert name in eventually(lambda: cluster.plane.up(silent))
    assert {state for _, state, _ in cluster.plane.status()} == {"running"}
    assert cluster.get("namespace", f"kept-over-{name}")["status"]["phase"] == "Active"


def test_the_node_pool_follows_its_size(cluster: Cluster):
    assert cluster.of_size(3).up(silent) == []
    eventually(lambda: len(cluster.get("nodes")["items"]) == 4)
    cluster.plane.up(silent)
    assert len(cluster.get("nodes")["items"]) == 3


def test_one_login_serves_two_clusters_with_the_same_authority(cluster: Cluster, tmp_path: Path):
    second = Cluster(tmp_path / "second", cluster.tools, authority=cluster.state / "keys")
    second.plane.up(silent)
    try:
        first_login, second_login = (
            yaml.safe_load(one.plane.kubeconfig.read_text())["users"] for one in (cluster, second)
        )
        assert first_login == second_login
        assert "PRIVATE KEY" in base64.b64decode(first_login[0]["user"]["client-key-data"]).decode()
        assert second.get("namespaces", "--field-selector=metadata.name=kept-over-etcd")["items"] == []
    finally:
        second.plane.down()


def test_going_down_leaves_no_process_and_no_port(tmp_path: Path):
    short = Cluster(tmp_path / "short", find_or_build(silent))
    short.plane.up(silent)
    pids = [short.pid(name) for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")]
    short.plane.down()
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    assert all(port_is_free(port) for port in (short.ports.kubernetes, short.ports.etcd, short.ports.etcd_peer))
    assert {state for _, state, _ in short.plane.status()} == {"stopped"}
