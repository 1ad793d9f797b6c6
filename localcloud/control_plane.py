"""A real Kubernetes control plane on 127.0.0.1, with T4 nodes that kwok simulates.

etcd, kube-apiserver, kube-controller-manager and kube-scheduler are the real programs; kwok answers for the nodes'
kubelets, and, as a cloud would, gives every Service of type LoadBalancer an address. Containers do not run.
"""

import base64
import json
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import requests
import trustme
import yaml

from localcloud.supervisor import Program, Supervisor, answers, loopback_session
from localcloud.toolchain import Report, Tools, replace_file

_TABLE: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
# kwok's own rules for nodes and pods, and ours.
_STOCK_STAGES = ("node/fast/node-*.yaml", "node/heartbeat-with-lease/node-*.yaml", "pod/fast/pod-*.yaml")
_OWN_STAGES = Path(__file__).parent / "kwok"
_HOST = "kubernetes.io/hostname"


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
        self.kubeconfig = state / "kubeconfig"
        self.server = f"https://127.0.0.1:{port}"
        """The API server's URL."""
        self._tools = tools
        self._etcd = f"http://127.0.0.1:{etcd_port}"
        self._ports = {"etcd": (etcd_port, etcd_peer_port), "kube-apiserver": (port,)}
        self._nodes = nodes(t4_nodes)
        self._keys = authority or state / "keys"
        self._settings = {
            "state": state,
            "keys": self._keys,
            "kubeconfig": self.kubeconfig,
            "port": port,
            "etcd": self._etcd,
            "etcd_peer": f"http://127.0.0.1:{etcd_peer_port}",
        }
        self._supervisor = Supervisor(state)

    def up(self, report: Report) -> list[str]:
        """Start what does not run, wait until pods can be scheduled; return the names of what was started.

        Raises:
            SupervisorError: a port is in use, or a program died or is not ready in time.
        """
        report("control plane: starting")
        if not self._keys.exists():
            make_keys(self._keys)
        self._write_logins()
        started = self._supervisor.bring_up(self._api_programs())
        self._put_nodes()
        return started + self._supervisor.bring_up(self._controllers())

    def down(self) -> None:
        """Stop its processes."""
        stop_processes(self._supervisor)

    def status(self) -> list[tuple[str, str, str]]:
        """Name, state (`running`, `not ready`, `stopped`) and detail of each process."""
        return [self._supervisor.status(program) for program in [*self._api_programs(), *self._controllers()]]

    def _api_programs(self) -> list[Program]:
        return [
            self._program("etcd", lambda: answers(f"{self._etcd}/health")),
            self._program("kube-apiserver", lambda: self._answers("/readyz")),
        ]

    def _controllers(self) -> list[Program]:
        default_account = "/api/v1/namespaces/default/serviceaccounts/default"
        stock = self._tools.kubernetes / "stage"
        stages = [file for pattern in _STOCK_STAGES for file in sorted(stock.glob(pattern))]
        return [
            self._program("kube-controller-manager", lambda: self._answers(default_account)),
            self._program("kube-scheduler", lambda: True),
            self._program("kwok", self._nodes_are_ready, *stages, *_OWN_STAGES.glob("*.yaml")),
        ]

    def _program(self, name: str, ready: Callable[[], bool], *configs: Path) -> Program:
        options = [option.format(**self._settings) for option in _TABLE["programs"][name]]
        argv = (str(self._tools.kubernetes / name), *options, *(f"--config={config}" for config in configs))
        environment = _TABLE["environment"].get(name, {})
        return Program(name, argv, ready, self._ports.get(name, ()), environment=environment)

    @cached_property
    def _http(self) -> requests.Session:
        session = loopback_session()
        session.verify = str(self._keys / "ca.crt")
        session.cert = (str(self._keys / "admin.crt"), str(self._keys / "admin.key"))
        return session

    def _answers(self, path: str) -> bool:
        return answers(self.server + path, self._http)

    def _present_nodes(self) -> dict[str, dict[str, Any]]:
        items = self._http.get(f"{self.server}/api/v1/nodes", timeout=5).json()["items"]
        return {node["metadata"]["name"]: node for node in items}

    def _put_nodes(self) -> None:
        """Register the nodes as a kubelet does, and remove those of a pool that was larger before."""
        url, present = f"{self.server}/api/v1/nodes", self._present_nodes()
        for name in self._nodes.keys() - present.keys():
            self._http.post(url, json=self._nodes[name], timeout=5).raise_for_status()
        for name in present.keys() - self._nodes.keys():
            self._http.delete(f"{url}/{name}", timeout=5).raise_for_status()

    def _nodes_are_ready(self) -> bool:
        try:
            present = self._present_nodes()
        except requests.RequestException:
            return False
        return present.keys() == self._nodes.keys() and all(map(_is_ready, present.values()))

    def _write_logins(self) -> None:
        """Write the administrator's kubeconfig, and the program that GKE's kubeconfigs name, with the same login."""
        ca, certificate, key = ((self._keys / name).read_text() for name in ("ca.crt", "admin.crt", "admin.key"))
        cluster = {"server": self.server, "certificate-authority-data": _base64(ca)}
        user = {"client-certificate-data": _base64(certificate), "client-key-data": _base64(key)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "local", "cluster": cluster}],
            "users": [{"name": "local", "user": user}],
            "contexts": [{"name": "local", "context": {"cluster": "local", "user": "local"}}],
            "current-context": "local",
        }
        credential = {
            "apiVersion": "client.authentication.k8s.io/v1beta1",
            "kind": "ExecCredential",
            "status": {"clientCertificateData": certificate, "clientKeyData": key},
        }
        (self.state / "bin").mkdir(parents=True, exist_ok=True)
        replace_file(self.kubeconfig, yaml.safe_dump(config, sort_keys=False), 0o600)
        script = f"#!/bin/sh\ncat <<'END'\n{json.dumps(credential)}\nEND\n"
        replace_file(self.state / "bin" / "gke-gcloud-auth-plugin", script, 0o700)


def make_keys(folder: Path) -> None:
    """Make a certificate authority and, signed by it, the API server's and the administrator's keys.

    The server's key signs service accounts' tokens too.
    """
    authority = trustme.CA(organization_name="triton-stack local")
    names = ("127.0.0.1", "10.96.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
    pairs = {
        "server": authority.issue_cert(*names, common_name="kube-apiserver"),
        # Its user and group: https://kubernetes.io/docs/reference/access-authn-authz/authentication/
        "admin": authority.issue_cert("admin", common_name="admin", organization_name="system:masters"),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".keys-") as scratch:
        made = Path(scratch) / "keys"
        made.mkdir(mode=0o700)
        authority.cert_pem.write_to_path(made / "ca.crt")
        for name, pair in pairs.items():
            pair.cert_chain_pems[0].write_to_path(made / f"{name}.crt")
            pair.private_key_pem.write_to_path(made / f"{name}.key")
        made.rename(folder)  # at once: a start that is interrupted leaves all or none


def stop_processes(supervisor: Supervisor) -> None:
    """Stop all processes of a state folder: each after those that need it, or its shutdown waits in vain for them."""
    servers = ["kube-apiserver", "etcd"]
    supervisor.stop(set(supervisor.names()).difference(servers))
    for server in servers:
        supervisor.stop([server])


def nodes(t4_nodes: int) -> dict[str, dict[str, Any]]:
    """The Node objects by name: the given number with one T4 each, as GKE makes them, and one without GPU."""
    shapes = _TABLE["nodes"]
    named = {"system-0": shapes["system"], **{f"t4-{n}": shapes["t4"] for n in range(t4_nodes)}}
    return {
        name: {**shape, "metadata": {"name": name, "labels": {**shape["metadata"]["labels"], _HOST: name}}}
        for name, shape in named.items()
    }


def _is_ready(node: dict[str, Any]) -> bool:
    """Whether pods can be scheduled to it: the node lifecycle controller takes its taint away only after `Ready`."""
    conditions: list[dict[str, str]] = node["status"].get("conditions", [])
    taints: list[dict[str, str]] = node["spec"].get("taints", [])
    ready = any((condition["type"], condition["status"]) == ("Ready", "True") for condition in conditions)
    return ready and not any(taint["key"] == "node.kubernetes.io/not-ready" for taint in taints)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
