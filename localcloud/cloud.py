"""The local cloud as a whole: AWS and GCS emulators, a Kubernetes control plane, and Tritons, all on 127.0.0.1."""

import os
import random
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Self

from filelock import FileLock

from localcloud.control_plane import ControlPlane, stop_processes
from localcloud.supervisor import Program, Supervisor, answers, port_is_free
from localcloud.toolchain import Report, Tools, find_or_build, plugin_folder, stand_ins

_TEST_PORTS = range(20000, 32000)


@dataclass(frozen=True)
class Ports:
    """Where the servers listen, on 127.0.0.1."""

    aws: int = 14566
    gcs: int = 14443
    kubernetes: int = 16443
    etcd: int = 12379
    etcd_peer: int = 12380

    @classmethod
    def free(cls) -> Self:
        """Ports that are free now, for a second local cloud beside the user's.

        Drawn from below the range that the kernel gives to outgoing connections: one of those would take a port
        between its choice and the start of its server.
        """
        free = (port for port in random.sample(_TEST_PORTS, len(_TEST_PORTS)) if port_is_free(port))
        return cls(*islice(free, len(fields(cls))))


class LocalCloud:
    """One local cloud.

    Args:
        state: folder of all that it keeps; an absolute path.
        ports: where its servers listen.
        t4_nodes: how many T4 nodes the Kubernetes cluster has, 0 or more.
        triton: whether endpoints and Deployments get a real Triton behind them; without, they are shapes only.
    """

    def __init__(self, state: Path, ports: Ports, t4_nodes: int, *, triton: bool = True) -> None:
        self.state = state
        self.ports = ports
        self._t4_nodes = t4_nodes
        self._triton = triton
        self._supervisor = Supervisor(state)

    @property
    def aws_url(self) -> str:
        """Endpoint of every AWS service."""
        return f"http://127.0.0.1:{self.ports.aws}"

    @property
    def gcs_url(self) -> str:
        """Endpoint of Google Cloud Storage."""
        return f"http://127.0.0.1:{self.ports.gcs}"

    def up(self, report: Report) -> list[str]:
        """Start what does not run and wait until all is ready; return the names of what was started.

        The emulators keep their contents in memory: one that was started anew is empty.

        Raises:
            ToolchainError: a tool is missing and cannot be built.
            SupervisorError: a port is in use, or a process died or is not ready in time.
        """
        tools = find_or_build(report)
        with self._lock():
            if missing := stand_ins(plugin_folder(self.state)):
                report(f"provider plugins: stand-ins for {', '.join(missing)} (the official ones are not installed)")
            emulators = self._emulators(tools)
            started = [program.name for program in emulators if self._supervisor.start(program)]
            started += self.control_plane(tools).up(report)
            report("emulators and nodes: starting")
            return started + self._supervisor.bring_up([*emulators, *self._gke_nodes()])

    def down(self) -> None:
        """Stop every process that was started here, by whichever command, and forget the cluster's objects."""
        if not self.state.exists():
            return
        with self._lock():
            stop_processes(self._supervisor)
            shutil.rmtree(self.state / "etcd", ignore_errors=True)

    def status(self) -> list[tuple[str, str, str]]:
        """Name, state (`running`, `not ready` or `stopped`) and detail of each process; empty where nothing is up."""
        if not self._supervisor.names():
            return []
        tools = find_or_build(_silent)
        own = [self._supervisor.status(program) for program in (*self._emulators(tools), *self._gke_nodes())]
        return [*own, *self.control_plane(tools).status()]

    def environment(self) -> dict[str, str]:
        """What pulumi, kubectl, boto3 and google-cloud-storage need to use this cloud; added to the caller's own."""
        backend = self.state / "pulumi"
        backend.mkdir(parents=True, exist_ok=True)
        tools = find_or_build(_silent)
        folders = [Path(sys.executable).parent, plugin_folder(self.state), self.state / "bin", *tools.path]
        return {
            "PATH": os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)]),
            "PULUMI_BACKEND_URL": backend.as_uri(),
            # Known to everyone: it guards nothing, for the local stack holds no secret. Pulumi.local.yaml has its salt.
            "PULUMI_CONFIG_PASSPHRASE": "local",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_HOME": str(self.state / "pulumi-home"),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.aws_url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "GOOGLE_CLOUD_PROJECT": "local",
            "STORAGE_EMULATOR_HOST": self.gcs_url,
            "KUBECONFIG": str(self.state / "kubeconfig"),
            "TRITON_STACK_STATE": str(self.state),
        }

    def control_plane(self, tools: Tools) -> ControlPlane:
        """The Kubernetes cluster."""
        return ControlPlane(
            self.state,
            tools,
            port=self.ports.kubernetes,
            etcd_port=self.ports.etcd,
            etcd_peer_port=self.ports.etcd_peer,
            t4_nodes=self._t4_nodes,
        )

    def __enter__(self) -> Self:
        """Bring it up, silently; wholly or not at all."""
        with ExitStack() as stack:
            stack.callback(self.down)
            self.up(_silent)
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Bring it down."""
        self.down()

    def _lock(self) -> FileLock:
        self.state.mkdir(parents=True, exist_ok=True)
        return FileLock(self.state / "lock")

    def _emulators(self, tools: Tools) -> list[Program]:
        gcs = (
            str(tools.gcs),
            "-backend=memory",  # its other backend refuses buckets with versioning
            "-scheme=http",
            "-host=127.0.0.1",
            f"-port={self.ports.gcs}",
            f"-external-url={self.gcs_url}",
            f"-public-host=127.0.0.1:{self.ports.gcs}",
            "-log-level=warn",
        )
        aws = self._module("aws_emulator", f"--port={self.ports.aws}", *([] if self._triton else ["--no-triton"]))
        aws_ready, gcs_ready = f"{self.aws_url}/moto-api/", f"{self.gcs_url}/_internal/healthcheck"
        return [
            Program("aws", aws, ready=lambda: answers(aws_ready), ports=(self.ports.aws,)),
            Program("gcs", gcs, ready=lambda: answers(gcs_ready), ports=(self.ports.gcs,)),
        ]

    def _gke_nodes(self) -> list[Program]:
        """The program that runs Triton for the simulated nodes, where Tritons are wanted."""
        argv = self._module("gke_node", f"--kubeconfig={self.state / 'kubeconfig'}", f"--gcs={self.gcs_url}")
        return [Program("gke-node", argv)] if self._triton else []

    def _module(self, name: str, *options: str) -> tuple[str, ...]:
        return (sys.executable, "-m", f"localcloud.{name}", *options, f"--state={self.state}")


def _silent(_: str) -> None:
    """A report that nobody reads."""
