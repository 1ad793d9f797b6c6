"""SageMaker's hosting: a real Triton behind each endpoint, serving what was uploaded to the emulated S3.

One Triton stands for all instances of an endpoint's variant: the counts are bookkeeping, the answers are real.
"""

import http.client
import json
import logging
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from localcloud.pod import LOOPBACK, PodError, free_port, isolation_refused
from localcloud.triton import (
    SAGEMAKER_PORT,
    Triton,
    TritonError,
    check_repository,
    default_model,
    install,
    sagemaker_arguments,
)
from model_repo.manifest import ManifestError

if TYPE_CHECKING:
    from types_boto3_s3 import S3ServiceResource

_LOG = logging.getLogger(__name__)
_REASON_LIMIT = 1024
"""Characters of a FailureReason: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeEndpoint.html."""


class HostingError(RuntimeError):
    """A container that SageMaker would not start, or that does not answer."""


@dataclass(frozen=True)
class Container:
    """What an endpoint is to run."""

    endpoint: str
    config: str
    variant: str
    s3_uri: str
    """Prefix of the uncompressed model data; its last segment is the repository's digest."""
    environment: Mapping[str, str]
    startup_seconds: int
    """How long it may take to answer /ping, 60 to 3,600 on SageMaker."""


@dataclass(frozen=True)
class _Serving:
    container: Container
    triton: Triton
    port: int
    """SageMaker's, or Triton's HTTP port where there is no namespace for SageMaker's."""
    paths: Mapping[str, str]
    """SageMaker's paths as that port knows them."""


class Hosting:
    """The endpoints that have a Triton.

    Args:
        state: Folder of the model data, logs and one ``<endpoint>.json`` for each Triton that runs.
        s3: The emulated S3.

    Raises:
        TritonError: There is no Triton on this machine.
    """

    def __init__(self, state: Path, s3: "S3ServiceResource") -> None:
        self._state = state
        self._s3 = s3
        self._installed = install(state / ".triton")
        self._wanted: dict[str, Container] = {}
        self._serving: dict[str, _Serving] = {}
        self._lock = threading.Lock()

    def deploy(self, container: Container, settled: Callable[[str | None], None]) -> None:
        """Put an endpoint onto ``container`` in the background; what serves it now goes on until the new one answers.

        Args:
            container: What to run.
            settled: Called once, with None when it serves or else with the reason why it does not.
        """
        self._wanted[container.endpoint] = container
        threading.Thread(target=self._host, args=(container, settled), daemon=True).start()

    def delete(self, endpoint: str) -> None:
        """Stop what serves ``endpoint``, if anything does."""
        with self._lock:
            self._wanted.pop(endpoint, None)
            serving = self._serving.pop(endpoint, None)
        if serving:
            serving.triton.stop()
        self._record(endpoint).unlink(missing_ok=True)
        shutil.rmtree(self._state / endpoint, ignore_errors=True)

    def serves(self, endpoint: str) -> bool:
        """Whether ``endpoint`` answers."""
        return endpoint in self._serving

    def invoke(
        self, endpoint: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes, str]:
        """Relay one request to the container's ``/invocations``.

        Returns:
            Status, headers, body, and the variant that answered.

        Raises:
            KeyError: Nothing serves ``endpoint``.
            HostingError: Its container does not answer.
        """
        serving = self._serving[endpoint]
        try:
            answer = serving.triton.request(serving.port, "POST", serving.paths["/invocations"], body, headers)
        except (OSError, http.client.HTTPException) as error:
            raise HostingError(f"the container does not answer: {error!r}. Log: {serving.triton.log}") from error
        return *answer, serving.container.variant

    def close(self) -> None:
        """Stop every Triton."""
        for endpoint in list(self._serving):
            self.delete(endpoint)

    def _host(self, container: Container, settled: Callable[[str | None], None]) -> None:
        """Start the container, then stay: one that ends without being asked to is started again, as SageMaker does."""
        serving = self._try(container, settled)
        while serving:
            serving.triton.pod.wait()
            serving = (
                self._try(container, lambda _: None) if self._wanted.get(container.endpoint) is container else None
            )

    def _try(self, container: Container, settled: Callable[[str | None], None]) -> _Serving | None:
        try:
            serving = self._start(container)
        except (TritonError, PodError, ManifestError, HostingError, BotoCoreError, ClientError) as error:
            _LOG.error("endpoint %s: %s", container.endpoint, error)
            self._fall_back(container)
            settled(str(error)[:_REASON_LIMIT])
            return None
        with self._lock:
            wanted, old = self._wanted.get(container.endpoint) is container, None
            if wanted:
                old = self._serving.get(container.endpoint)
                self._serving[container.endpoint] = serving
        if not wanted:  # deleted in the meantime
            serving.triton.stop()
            return None
        self._write_record(serving)
        settled(None)
        if old:
            old.triton.stop()
        return serving

    def _fall_back(self, failed: Container) -> None:
        """Want again what serves still, unless something newer is wanted already."""
        with self._lock:
            if self._wanted.get(failed.endpoint) is failed:
                del self._wanted[failed.endpoint]
                if serving := self._serving.get(failed.endpoint):
                    self._wanted[failed.endpoint] = serving.container

    def _start(self, container: Container) -> _Serving:
        folder = self._state / container.endpoint / container.config
        repository = folder / "model"
        self._download(container.s3_uri, repository)
        check_repository(repository, _digest(container))
        model = default_model(container.environment, repository)
        environment = {**container.environment, "SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": model}
        arguments = sagemaker_arguments(environment, repository)
        port = int(environment.get("SAGEMAKER_BIND_TO_PORT", SAGEMAKER_PORT))
        paths = {"/ping": "/ping", "/invocations": "/invocations"}
        if isolation_refused():
            port = free_port()
            paths = {"/ping": "/v2/health/ready", "/invocations": f"/v2/models/{model}/infer"}
            # Later options win.
            arguments += ["--allow-sagemaker=false", "--allow-http=true", f"--http-port={port}"]
            arguments += [f"--{server}-address={LOOPBACK}" for server in ("http", "grpc", "metrics")]
        triton = Triton(
            self._installed,
            arguments,
            environment,
            ports=[port],
            ready=(port, paths["/ping"]),
            seconds=container.startup_seconds,
            log=folder / "triton.log",
        )
        return _Serving(container, triton, port, paths)

    def _download(self, s3_uri: str, folder: Path) -> None:
        name, prefix = _bucket_and_prefix(s3_uri)
        shutil.rmtree(folder, ignore_errors=True)
        bucket = self._s3.Bucket(name)
        for entry in bucket.objects.filter(Prefix=prefix):
            path = folder / entry.key.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            bucket.download_file(entry.key, str(path))
        if not folder.exists():
            raise HostingError(f"{s3_uri} has no objects: upload the model repository before the endpoint is made")

    def _record(self, endpoint: str) -> Path:
        return self._state / f"{endpoint}.json"

    def _write_record(self, serving: _Serving) -> None:
        record: dict[str, Any] = {
            "pid": serving.triton.pod.pid,
            "argv": serving.triton.arguments,
            "environment": serving.triton.environment,
            "digest": _digest(serving.container),
            "config": serving.container.config,
            "untested": None,
        }
        if refused := isolation_refused():
            record["untested"] = f"SageMaker's own listener (/ping, /invocations): no network namespace, {refused}"
            _LOG.warning("endpoint %s: untested: %s", serving.container.endpoint, record["untested"])
        self._record(serving.container.endpoint).write_text(json.dumps(record, indent=2))


def _bucket_and_prefix(s3_uri: str) -> tuple[str, str]:
    match = re.fullmatch(r"s3://([^/]+)/(.+/)", s3_uri)
    if not match:
        raise HostingError(
            f"model data {s3_uri!r}: SageMaker takes an uncompressed model from s3://BUCKET/PREFIX/, with the slash at "
            "its end; set model_data_source with s3_data_type S3Prefix and compression_type None"
        )
    return match[1], match[2]


def _digest(container: Container) -> str:
    return container.s3_uri.rstrip("/").rpartition("/")[2]
