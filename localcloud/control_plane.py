"""A real Kubernetes control plane on 127.0.0.1, with T4 nodes that kwok simulates.

etcd, kube-apiserver, kube-controller-manager and kube-scheduler are the real programs; kwok answers for the nodes'
kubelets, and, as a cloud would, gives every Service of type LoadBalancer an address. Containers do not run.
"""

import base64
import http.client
import json
import ssl
from contextlib import closing
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml

from localcloud.certificates import Authority, KeyPair
from localcloud.supervisor import Program, Supervisor, SupervisorError, answers
from localcloud.toolchain import Report, Tools

_REQUEST_SECONDS = 5.0
_STAGES = Path(__file__).parent / "kwok"
_NODE_POOL = "cloud.google.com/gke-nodepool"
_ZONE = "us-central1-a"
# An n1-standard-4 and what GKE leaves of it to pods: 80 millicores and 2.6 GiB are reserved.
# https://docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes
_CAPACITY = {"cpu": "4", "memory": "15Gi", "ephemeral-storage": "100Gi", "pods": "110"}
_ALLOCATABLE = {"cpu": "3920m", "memory": "12700Mi", "ephemeral-storage": "50Gi", "pods": "110"}


class ControlPlane:
    """One cluster.

    Args:
        state: folder for its keys, data, logs and process records.
        tools: where the programs are.
        port: of the API server, on 127.0.0.1.
        etcd_port: of etcd, for the API server.
        etcd_peer_port: of etcd, for members that it does not have.
        t4_nodes: how many nodes with one T4 each, 0 or more; beside them is a node without GPU.
        authority: folder of the keys; another control plane's, so that one `gke-gcloud-auth-plugin` serves both.
    """

    def __init__(
        self,
        state: Path,
        tools: Tools,
        *,
        port: int,
        etcd_port: int,
        etcd_peer_port: int,
        t4_nodes: int,
        authority: Path | None = None,
    ) -> None:
        self.state = state
        self.port = port
        self.kubeconfig = state / "kubeconfig"
        self._tools = tools
        self._etcd = f"http://127.0.0.1:{etcd_port}"
        self._etcd_peer = f"http://127.0.0.1:{etcd_peer_port}"
        self._etcd_ports = (etcd_port, etcd_peer_port)
        self._nodes = nodes(t4_nodes)
        self._keys = authority or state / "keys"
        self._supervisor = Supervisor(state)

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://127.0.0.1:{self.port}"

    def up(self, report: Report) -> list[str]:
        """Start what does not run, wait until pods can be scheduled; return the names of what was started.

        Raises:
            SupervisorError: a port is in use, or a program died or is not ready in time.
        """
        report("control plane: starting")
        self._write_kubeconfig()
        started = self._start(self._api_programs())
        self._put_nodes()
        return started + self._start(self._controllers())

    def down(self) -> None:
        """Stop its processes."""
        stop_processes(self._supervisor)

    def status(self) -> list[tuple[str, str, str]]:
        """Name, state (`running`, `not ready`, `stopped`) and detail of each process."""
        return [self._supervisor.status(program) for program in [*self._api_programs(), *self._controllers()]]

    @cached_property
    def _authority(self) -> Authority:
        return Authority(self._keys)

    def _start(self, programs: list[Program]) -> list[str]:
        started = [program.name for program in programs if self._supervisor.start(program)]
        for program in programs:
            self._supervisor.wait(program)
        return started

    def _program(self, name: str) -> str:
        return str(self._tools.kubernetes / name)

    def _api_programs(self) -> list[Program]:
        serving = self._authority.server()
        service_accounts = self._authority.service_accounts()
        etcd = Program(
            name="etcd",
            argv=(
                self._program("etcd"),
                "--name=local",
                f"--data-dir={self.state / 'etcd'}",
                f"--listen-client-urls={self._etcd}",
                f"--advertise-client-urls={self._etcd}",
                f"--listen-peer-urls={self._etcd_peer}",
                f"--initial-advertise-peer-urls={self._etcd_peer}",
                f"--initial-cluster=local={self._etcd_peer}",
                "--unsafe-no-fsync",  # the data need not outlive the machine
                "--log-level=warn",
            ),
            ports=self._etcd_ports,
            ready=self._etcd_is_healthy,
        )
        apiserver = Program(
            name="kube-apiserver",
            argv=(
                self._program("kube-apiserver"),
                f"--etcd-servers={self._etcd}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",  # else a machine with no default route has none to advertise
                f"--secure-port={self.port}",
                "--endpoint-reconciler-type=none",  # no pod runs, so none needs the API server's endpoint
                "--service-cluster-ip-range=10.96.0.0/16",
                f"--tls-cert-file={serving.certificate}",
                f"--tls-private-key-file={serving.key}",
                f"--client-ca-file={self._authority.certificate}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-signing-key-file={service_accounts.key}",
                f"--service-account-key-file={service_accounts.certificate}",
                "--authorization-mode=Node,RBAC",
                "--profiling=false",
            ),
            ports=(self.port,),
            ready=lambda: self._answers("/readyz"),
        )
        return [etcd, apiserver]

    def _controllers(self) -> list[Program]:
        service_accounts = self._authority.service_accounts()
        throughput = ("--kube-api-qps=500", "--kube-api-burst=1000")  # the defaults take twice as long to start
        controller_manager = Program(
            name="kube-controller-manager",
            argv=(
                self._program("kube-controller-manager"),
                *self._credentials(),
                *throughput,
                "--secure-port=0",
                "--leader-elect=false",
                f"--service-account-private-key-file={service_accounts.key}",
                f"--root-ca-file={self._authority.certificate}",
                "--use-service-account-credentials=true",
                "--horizontal-pod-autoscaler-sync-period=5s",
                f"--flex-volume-plugin-dir={self.state / 'flex-volumes'}",  # its default is a folder of the system's
                "--profiling=false",
            ),
            ready=lambda: self._answers("/api/v1/namespaces/default/serviceaccounts/default"),
        )
        scheduler = Program(
            name="kube-scheduler",
            argv=(
                self._program("kube-scheduler"),
                *self._credentials(),
                *throughput,
                "--secure-port=0",
                "--leader-elect=false",
                "--profiling=false",
            ),
            ready=lambda: self._supervisor.alive("kube-scheduler"),
        )
        kwok = Program(
            name="kwok",
            argv=(
                self._program("kwok"),
                f"--kubeconfig={self.kubeconfig}",
                "--manage-all-nodes=true",
                "--cidr=10.244.0.0/16",
                "--node-ip=127.0.0.1",
                "--node-lease-duration-seconds=40",
                *(f"--config={stage}" for stage in self._stages()),
            ),
            ready=self._nodes_are_ready,
        )
        return [controller_manager, scheduler, kwok]

    def _stages(self) -> list[Path]:
        """kwok's own rules for nodes and pods, and ours."""
        stock = self._tools.kubernetes / "stage"
        kinds = ("node/fast/node-*", "node/heartbeat-with-lease/node-*", "pod/fast/pod-*")
        return [*(stage for kind in kinds for stage in sorted(stock.glob(f"{kind}.yaml"))), *_STAGES.glob("*.yaml")]

    def _credentials(self) -> list[str]:
        """All act as the administrator: who may do what is asked of the workloads, not of the control plane."""
        names = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
        return [f"--{name}={self.kubeconfig}" for name in names]

    def _write_kubeconfig(self) -> None:
        admin = self._authority.administrator()
        (self.state / "bin").mkdir(parents=True, exist_ok=True)
        _write_private(self.kubeconfig, _kubeconfig(self.server, self._authority.certificate, admin), mode=0o600)
        _write_private(self.state / "bin" / "gke-gcloud-auth-plugin", _gke_auth_plugin(admin), mode=0o700)

    def _etcd_is_healthy(self) -> bool:
        return answers(f"{self._etcd}/health")

    def _answers(self, path: str) -> bool:
        return answers(self.server + path, self._tls())

    def _nodes_are_ready(self) -> bool:
        try:
            present = self._present_nodes()
        except (OSError, http.client.HTTPException):
            return False
        return len(present) == len(self._nodes) and all(_is_ready(node) for node in present)

    def _put_nodes(self) -> None:
        """Register the nodes as a kubelet does, and remove those of a pool that was larger before."""
        wanted = {node["metadata"]["name"]: node for node in self._nodes}
        present = {node["metadata"]["name"] for node in self._present_nodes()}
        for name in wanted.keys() - present:
            self._call("POST", "/api/v1/nodes", wanted[name])
        for name in present - wanted.keys():
            self._call("DELETE", f"/api/v1/nodes/{name}")

    def _present_nodes(self) -> list[dict[str, Any]]:
        return self._call("GET", "/api/v1/nodes")["items"]

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=_REQUEST_SECONDS, context=self._tls())
        with closing(connection):
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = json.loads(answer.read())
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise SupervisorError(f"{method} {self.server}{path} was refused: {content['message']}")
        return content

    def _tls(self) -> ssl.SSLContext:
        admin = self._authority.administrator()
        context = ssl.create_default_context(cafile=self._authority.certificate)
        context.load_cert_chain(admin.certificate, admin.key)
        return context


def _is_ready(node: dict[str, Any]) -> bool:
    """Whether pods can be scheduled to it: the node lifecycle controller takes its taint away only after `Ready`."""
    conditions: list[dict[str, str]] = node["status"].get("conditions", [])
    taints: list[dict[str, str]] = node["spec"].get("taints", [])
    ready = any((condition["type"], condition["status"]) == ("Ready", "True") for condition in conditions)
    return ready and not any(taint["key"] == "node.kubernetes.io/not-ready" for taint in taints)


def stop_processes(supervisor: Supervisor) -> None:
    """Stop all processes of a state folder: each after those that need it, or its shutdown waits in vain for them."""
    servers = ["kube-apiserver", "etcd"]
    supervisor.stop(set(supervisor.names()).difference(servers))
    for server in servers:
        supervisor.stop([server])


def nodes(t4_nodes: int) -> list[dict[str, Any]]:
    """The Node objects: the given number with one T4 each, as GKE labels and taints them, and one without GPU."""
    t4 = {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4", _NODE_POOL: "t4"}
    taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    system = _node("system-0", {_NODE_POOL: "system"}, [], {})
    return [system, *(_node(f"t4-{n}", t4, [taint], {"nvidia.com/gpu": "1"}) for n in range(t4_nodes))]


def _node(name: str, labels: dict[str, str], taints: list[dict[str, str]], devices: dict[str, str]) -> dict[str, Any]:
    common = {
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": "n1-standard-4",
        "topology.kubernetes.io/region": _ZONE.rpartition("-")[0],
        "topology.kubernetes.io/zone": _ZONE,
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": common | labels},
        "spec": {"taints": taints},
        "status": {"capacity": _CAPACITY | devices, "allocatable": _ALLOCATABLE | devices},
    }


def _kubeconfig(server: str, ca: Path, user: KeyPair) -> str:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": server, "certificate-authority-data": _base64(ca)}}],
        "users": [
            {
                "name": "local",
                "user": {
                    "client-certificate-data": _base64(user.certificate),
                    "client-key-data": _base64(user.key),
                },
            }
        ],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "local"}}],
        "current-context": "local",
    }
    return yaml.safe_dump(config, sort_keys=False)


def _gke_auth_plugin(user: KeyPair) -> str:
    """The program that GKE's kubeconfigs name, here with the local administrator's certificate."""
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "kind": "ExecCredential",
        "status": {
            "clientCertificateData": user.certificate.read_text(),
            "clientKeyData": user.key.read_text(),
        },
    }
    return f"#!/bin/sh\ncat <<'END'\n{json.dumps(credential)}\nEND\n"


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def _write_private(file: Path, text: str, *, mode: int) -> None:
    """Write a file that holds a key, replacing it at once: another program may be reading it."""
    fresh = file.with_suffix(".new")
    fresh.touch(mode)
    fresh.write_text(text)
    fresh.replace(file)
