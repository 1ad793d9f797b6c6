"""A real Triton server on the CPU: the one inside PyPI's ``nvidia-pytriton``, laid out as Triton's image is.

Facts on its options: ``tritonserver --help``; on SageMaker's mode:
https://github.com/triton-inference-server/server/blob/main/docker/sagemaker/serve.
"""

import http.client
import importlib.util
import re
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcloud.pod import LOOPBACK, Pod, isolation_refused
from localcloud.toolchain import tail
from model_repo.manifest import MANIFEST_NAME, Manifest

SAGEMAKER_PORT = 8080
HTTP_PORT = 8000

_BACKENDS = Path(__file__).parent / "backends"


class TritonError(RuntimeError):
    """A Triton that cannot be had, or does not serve."""


@dataclass(frozen=True)
class TritonInstall:
    """A tritonserver that can be run."""

    binary: Path
    options: tuple[str, ...]
    """Where its backends and caches are, and what a machine with no GPU needs."""
    environment: Mapping[str, str]
    """What the process needs to find its libraries and this Python."""


def install(folder: Path) -> TritonInstall:
    """Lay out a Triton in ``folder``, made anew, from the installed ``nvidia-pytriton`` and our backends.

    Raises:
        TritonError: The wheel or libpython is missing.
    """
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise TritonError("nvidia-pytriton is not installed, so there is no tritonserver. Run: uv sync --group local")
    site_packages = Path(spec.origin).parents[1]
    server = site_packages / "pytriton/tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.rmtree(folder, ignore_errors=True)
    # Copies: Triton refuses a backend's library that is a link out of the backend's folder.
    shutil.copytree(_BACKENDS, folder / "backends", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(server / "backends/python", folder / "backends/python")
    shutil.copy2(server / f"python_backend_stubs/{version}/triton_python_backend_stub", folder / "backends/python")
    return TritonInstall(
        binary=server / "bin/tritonserver",
        options=(
            f"--backend-directory={folder / 'backends'}",
            f"--cache-directory={server / 'caches'}",
            "--allow-gpu-metrics=false",
            "--pinned-memory-pool-byte-size=0",
        ),
        environment={
            "LD_LIBRARY_PATH": f"{site_packages / 'nvidia_pytriton.libs'}:{_libpython(version).parent}",
            # The stub takes its packages, onnxruntime among them, from the first python3 on PATH.
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        },
    )


def _libpython(version: str) -> Path:
    """The shared library that the Python backend's stub is linked to."""
    name = f"libpython{version}.so.1.0"
    folders = (sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib", "/usr/lib/x86_64-linux-gnu")
    found = [path for folder in folders if folder and (path := Path(folder) / name).exists()]
    if not found:
        raise TritonError(
            f"{name} is in none of {', '.join(map(str, folders))}, and Triton's Python backend needs it. "
            f"Use a Python with a shared library: uv python install {version}, or apt-get install libpython{version}."
        )
    return found[0]


def sagemaker_arguments(environment: Mapping[str, str], repository: Path) -> list[str]:
    """What the ``serve`` script of the SageMaker Triton image makes of a container's environment.

    Raises:
        TritonError: The script would exit with an error before it starts Triton.
    """
    if environment.get("SAGEMAKER_MULTI_MODEL") == "true":
        raise TritonError("SAGEMAKER_MULTI_MODEL=true: multi-model endpoints are not served here. Leave it out.")
    kind = environment.get("SAGEMAKER_TRITON_INFERENCE_TYPE", "infer")
    if kind not in ("infer", "generate", "generate_stream"):
        raise TritonError(f"SAGEMAKER_TRITON_INFERENCE_TYPE={kind}: must be one of infer, generate, generate_stream")
    arguments = ["--allow-sagemaker=true", "--allow-http=false", "--model-control-mode=explicit"]
    arguments.append(f"--model-repository={repository}")
    for variable, option, default in _SERVE_OPTIONS:
        # As in the script's `[ -n "$X" ]`, an empty value counts as none.
        if value := environment.get(variable) or default:
            arguments.append(f"--{option}={value}")
    arguments += environment.get("SAGEMAKER_TRITON_ADDITIONAL_ARGS", "").split()
    return [*arguments, f"--load-model={default_model(environment, repository)}"]


_SERVE_OPTIONS = (
    ("SAGEMAKER_TRITON_DISABLE_MODEL_NAMESPACING", "model-namespacing", "true"),
    ("SAGEMAKER_BIND_TO_PORT", "sagemaker-port", None),
    ("SAGEMAKER_SAFE_PORT_RANGE", "sagemaker-safe-port-range", None),
    ("SAGEMAKER_TRITON_ALLOW_GRPC", "allow-grpc", "false"),
    ("SAGEMAKER_TRITON_ALLOW_METRICS", "allow-metrics", "false"),
    ("SAGEMAKER_TRITON_METRICS_PORT", "metrics-port", None),
    ("SAGEMAKER_TRITON_GRPC_PORT", "grpc-port", None),
    ("SAGEMAKER_TRITON_BUFFER_MANAGER_THREAD_COUNT", "buffer-manager-thread-count", None),
    ("SAGEMAKER_TRITON_THREAD_COUNT", "sagemaker-thread-count", None),
    ("SAGEMAKER_TRITON_LOG_VERBOSE", "log-verbose", "true"),
    ("SAGEMAKER_TRITON_LOG_INFO", "log-info", None),
    ("SAGEMAKER_TRITON_LOG_WARNING", "log-warning", None),
    ("SAGEMAKER_TRITON_LOG_ERROR", "log-error", None),
    ("SAGEMAKER_TRITON_SHM_DEFAULT_BYTE_SIZE", "backend-config=python,shm-default-byte-size", "16777216"),
    ("SAGEMAKER_TRITON_SHM_GROWTH_BYTE_SIZE", "backend-config=python,shm-growth-byte-size", "1048576"),
    ("SAGEMAKER_TRITON_TENSORFLOW_VERSION", "backend-config=tensorflow,version", None),
)
"""Variable, option and default. The script's GPU memory limit is one option per GPU, of which there are none here."""


def default_model(environment: Mapping[str, str], repository: Path) -> str:
    """The model that /invocations is for; the ``serve`` script exports it as SAGEMAKER_TRITON_DEFAULT_MODEL_NAME.

    Raises:
        TritonError: The environment names none that is there, or must name one and does not.
    """
    if (repository / "config.pbtxt").exists():
        raise TritonError("config.pbtxt lies at the root of the model data: it belongs into a folder of its model")
    models = sorted(path.name for path in repository.iterdir() if path.is_dir())
    name = environment.get("SAGEMAKER_TRITON_DEFAULT_MODEL_NAME")
    if name and name not in models:
        raise TritonError(f"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME={name}: the model data has only {', '.join(models)}")
    if not name and len(models) != 1:
        raise TritonError(
            f"the model data has {len(models)} model folders ({', '.join(models)}): "
            "name the one to serve in SAGEMAKER_TRITON_DEFAULT_MODEL_NAME"
        )
    return name or models[0]


def kubernetes_arguments(container: Mapping[str, Any]) -> list[str]:
    """The arguments of a pod template's container; raises :class:`TritonError` if it runs no ``tritonserver``."""
    command = [*(container.get("command") or ()), *(container.get("args") or ())]
    if not command or Path(command[0]).name != "tritonserver":
        raise TritonError(f"container {container.get('name')}: its command is {command[:1]}, not tritonserver")
    return command[1:]


def fetch_repository(objects: Iterable[tuple[str, Callable[[str], object]]], prefix: str, folder: Path) -> None:
    """Download a model repository, and :func:`check_repository`.

    Args:
        objects: Of the bucket under ``prefix``: the key, and what writes the object to a path.
        prefix: ``models/NAME/DIGEST/``.
        folder: Where to, made anew.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for key, download in objects:
        path = folder / key.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        download(str(path))
    check_repository(folder, prefix.split("/")[-2])


def check_repository(folder: Path, digest: str) -> None:
    """Hold downloaded model data against the digest under which it was published.

    Raises:
        TritonError: The bytes are not those of the digest.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        raise TritonError(f"no {MANIFEST_NAME} beside the model folders: publish the repository as models/NAME/DIGEST")
    manifest = Manifest.from_bytes(path.read_bytes())
    differences = manifest.check_folder(folder)
    if manifest.digest != digest:
        differences.insert(0, f"{MANIFEST_NAME} has the digest {manifest.digest}, its prefix says {digest}")
    if differences:
        raise TritonError(f"the repository is not what was published: {'; '.join(differences)}")


class Triton:
    """A running Triton, ready to serve, in a :class:`~localcloud.pod.Pod`.

    Args:
        installed: From :func:`install`.
        arguments: Of tritonserver, to which those of the installation are added.
        environment: The container's.
        ports: Ports inside to be reached from the host.
        ready: Port and path that answer 200 when it is ready.
        seconds: How long to wait for that.
        log: File for its output, made anew.
        outbound: Ports of the host's loopback that it may reach.

    Raises:
        PodError: It could not be started.
        TritonError: It ended, or was not ready in time; the text has Triton's own reason.
    """

    def __init__(
        self,
        installed: TritonInstall,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        ports: Sequence[int],
        ready: tuple[int, str],
        seconds: float,
        log: Path,
        outbound: Sequence[int] = (),
    ) -> None:
        # Without a namespace of its own, it must not listen on other interfaces. Later options win.
        only = [f"--{server}-address={LOOPBACK}" for server in ("http", "grpc", "metrics") if isolation_refused()]
        self.arguments = [str(installed.binary), *arguments, *only, *installed.options]
        self.environment = {**installed.environment, **environment}
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        self.pod = Pod(self.arguments, self.environment, ports=ports, log=log, outbound=outbound)
        deadline = time.monotonic() + seconds
        while not self._answers(*ready):
            if self.pod.alive and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            how = f"was not ready in {seconds:.0f} s" if self.pod.alive else "ended before it was ready"
            self.stop()
            raise TritonError(f"Triton {how}: {self._failure()}. Log: {log}")

    def record(self) -> dict[str, Any]:
        """What runs, and what of it cannot be shown on this machine."""
        refused = isolation_refused()
        untested = refused and f"the addresses that it would listen on: no network namespace, {refused}"
        process = {"pid": self.pod.pid, "argv": self.arguments, "environment": self.environment}
        return {**process, "untested": untested}

    def request(
        self, port: int, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send one HTTP request to a port inside; return status, headers and body.

        Raises:
            TritonError: It is not reached, or silent for 60 s, the longest that SageMaker waits for a container:
                https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html.
        """
        with closing(http.client.HTTPConnection(*self.pod.addresses[port], timeout=60)) as connection:
            try:
                connection.request(method, path, body, dict(headers or {}))
                response = connection.getresponse()
                return response.status, dict(response.headers), response.read()
            except (OSError, http.client.HTTPException) as error:
                raise TritonError(f"the container does not answer: {error!r}. Log: {self.log}") from error

    def stop(self) -> None:
        """Stop it, letting requests in flight finish."""
        self.pod.stop()

    def _answers(self, port: int, path: str) -> bool:
        try:
            return self.request(port, "GET", path)[0] == http.client.OK
        except TritonError:
            return False

    def _failure(self) -> str:
        """What Triton's log says went wrong."""
        # E1122 10:12:44.005406 371 model_lifecycle.cc:654] "failed to load 'bert' version 1: …\n\nAt:\n <Python stack>"
        pattern = r"\"?((?:Poll failed|failed to load).*?)(?:\\n\\nAt:.*)?;?\"?$"
        return "; ".join(re.findall(pattern, self.log.read_text(errors="replace"), re.MULTILINE)) or tail(self.log)
