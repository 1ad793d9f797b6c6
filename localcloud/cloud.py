"""The local cloud as a whole: AWS and GCS emulators, a Kubernetes control plane, and Tritons, all on 127.0.0.1."""

import os
import shutil
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from filelock import FileLock

from localcloud.control_plane import ControlPlane, stop_processes
from localcloud.supervisor import Program, Supervisor, answers
from localcloud.toolchain import CHECKOUT, Report, Tools, find_or_build, plugin_folder, stand_ins


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
        """Ports that are free now, for a second local cloud beside the user's."""
        with ExitStack() as stack:
            probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in fields(cls)]
            return cls(*(probe.getsockname()[1] for probe in probes))


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
            emulators, nodes = self._emulators(), self._gke_nodes()
            started = [program.name for program in emulators if self._supervisor.start(program)]
            started += self.control_plane(tools).up(report)
            started += [program.name for program in nodes if self._supervisor.start(program)]
            for program in [*emulators, *nodes]:
                report(f"{program.name}: waiting until it is ready")
                self._supervisor.wait(program)
        return started

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
        programs = [*self._emulators(), *self._gke_nodes()]
        own = [self._supervisor.status(program) for program in programs]
        return [*own, *self.control_plane(find_or_build(_silent)).status()]

    def environment(self) -> dict[str, str]:
        """What pulumi, kubectl, boto3 and google-cloud-storage need to use this cloud; added to the caller's own."""
        self.state.mkdir(parents=True, exist_ok=True)
        virtual_environment = Path(sys.executable).parent
        tools = find_or_build(_silent)
        folders = [virtual_environment, plugin_folder(self.state), self.state / "bin", *tools.path]
        return {
            "PATH": os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)]),
            "PULUMI_BACKEND_URL": self._pulumi_backend(),
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

    def _pulumi_backend(self) -> str:
        folder = self.state / "pulumi"
        folder.mkdir(exist_ok=True)
        return folder.as_uri()

    def _emulators(self) -> list[Program]:
        options = [f"--port={self.ports.aws}", *([] if self._triton else ["--no-triton"])]
        aws = Program(
            name="aws",
            argv=self._python("localcloud.aws_emulator", *options),
            environment=self._python_environment(),
            ports=(self.ports.aws,),
            ready=lambda: answers(f"{self.aws_url}/moto-api/"),
        )
        gcs = Program(
            name="gcs",
            argv=(
                str(find_or_build(_silent).gcs),
                "-backend=memory",  # its other backend refuses buckets with versioning
                "-scheme=http",
                "-host=127.0.0.1",
                f"-port={self.ports.gcs}",
                f"-external-url={self.gcs_url}",
                f"-public-host=127.0.0.1:{self.ports.gcs}",
                "-log-level=warn",
            ),
            ports=(self.ports.gcs,),
            ready=lambda: answers(f"{self.gcs_url}/_internal/healthcheck"),
        )
        return [aws, gcs]

    def _gke_nodes(self) -> list[Program]:
        """The program that runs Triton for the simulated nodes, where Tritons are wanted."""
        options = [f"--kubeconfig={self.state / 'kubeconfig'}", f"--gcs={self.gcs_url}"]
        program = Program(
            name="gke-node",
            argv=self._python("localcloud.gke_node", *options),
            environment=self._python_environment(),
            ready=lambda: self._supervisor.alive("gke-node"),
        )
        return [program] if self._triton else []

    def _python(self, module: str, *options: str) -> tuple[str, ...]:
        return (sys.executable, "-m", module, *options, f"--state={self.state}")

    def _python_environment(self) -> dict[str, str]:
        return self.environment() | {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}


def _silent(_: str) -> None:
    """A report that nobody reads."""
