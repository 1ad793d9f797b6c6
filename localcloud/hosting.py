"""SageMaker's hosting: a real Triton behind each endpoint, serving what was uploaded to the emulated S3.

One Triton stands for all instances of an endpoint's variant: the counts are bookkeeping, the answers are real.
"""

import functools
import json
import logging
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from localcloud.pod import PodError, free_port, isolation_refused
from localcloud.triton import (
    SAGEMAKER_PORT,
    Triton,
    TritonError,
    default_model,
    fetch_repository,
    install,
    sagemaker_arguments,
)
from model_repo.manifest import ManifestError

if TYPE_CHECKING:
    from types_boto3_s3 import S3ServiceResource

_LOG = logging.getLogger(__name__)
_REASON_LIMIT = 1024
"""Characters of a FailureReason: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeEndpoint.html."""


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


class _Serving(NamedTuple):
    container: Container
    triton: Triton
    port: int
    path: str
    """Of invocations."""


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

    def deploy(
        self, container: Container, settled: Callable[[str | None], None], rolled_back: Callable[[], str | None]
    ) -> None:
        """Put an endpoint onto ``container`` in the background; what serves it now goes on until the new one answers.

        ``rolled_back`` is asked then, and may say why the old one is to go on for good. ``settled`` is called once,
        with None when the new one serves or else with the reason why it does not.
        """
        self._wanted[container.endpoint] = container
        threading.Thread(target=self._host, args=(container, settled, rolled_back), daemon=True).start()

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
        """Relay one request to the container; return status, headers, body, and the variant that answered.

        Raises:
            KeyError: Nothing serves ``endpoint``.
            TritonError: Its container does not answer.
        """
        serving = self._serving[endpoint]
        return *serving.triton.request(serving.port, "POST", serving.path, body, headers), serving.container.variant

    def close(self) -> None:
        """Stop every Triton."""
        for endpoint in list(self._serving):
            self.delete(endpoint)

    def _host(
        self, container: Container, settled: Callable[[str | None], None], rolled_back: Callable[[], str | None]
    ) -> None:
        name = container.endpoint
        try:
            serving = self._start_for_good(container, rolled_back)
        except (TritonError, PodError, ManifestError, BotoCoreError, ClientError) as error:
            _LOG.error("endpoint %s: %s", name, error)
            if old := self._serving.get(name):
                self._wanted[name] = old.container
            settled(str(error)[:_REASON_LIMIT])
            return
        with self._lock:
            wanted, old = self._wanted.get(name) is container, self._serving.get(name)
            if wanted:
                self._serving[name] = serving
                record = {**serving.triton.record(), "digest": container.s3_uri.split("/")[-2]}
                self._record(name).write_text(json.dumps(record, indent=2))
        if not wanted:  # deleted in the meantime
            serving.triton.stop()
            return
        settled(None)
        if old:
            old.triton.stop()
        serving.triton.pod.wait()
        if self._wanted.get(name) is container:  # it ended unasked: as SageMaker, start another
            self.deploy(container, lambda _: None, lambda: None)

    def _start_for_good(self, container: Container, rolled_back: Callable[[], str | None]) -> _Serving:
        serving = self._start(container)
        if reason := rolled_back():
            serving.triton.stop()
            raise TritonError(reason)
        return serving

    def _start(self, container: Container) -> _Serving:
        location = re.fullmatch(r"s3://([^/]+)/(.+/)", container.s3_uri)
        if not location:
            raise TritonError(f"model data {container.s3_uri!r}: an uncompressed model is at s3://BUCKET/PREFIX/")
        folder = self._state / container.endpoint / container.config
        repository, bucket = folder / "model", self._s3.Bucket(location[1])
        keys = [entry.key for entry in bucket.objects.filter(Prefix=location[2])]
        fetch_repository(((key, functools.partial(bucket.download_file, key)) for key in keys), location[2], repository)
        model = default_model(container.environment, repository)
        environment = {**container.environment, "SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": model}
        arguments = sagemaker_arguments(environment, repository)
        port, ping, path = int(environment.get("SAGEMAKER_BIND_TO_PORT", SAGEMAKER_PORT)), "/ping", "/invocations"
        if isolation_refused():  # SageMaker's listener would be on every interface: Triton's own takes its place
            port, ping, path = free_port(), "/v2/health/ready", f"/v2/models/{model}/infer"
            arguments += ["--allow-sagemaker=false", "--allow-http=true", f"--http-port={port}"]
        triton = Triton(
            self._installed,
            arguments,
            environment,
            ports=[port],
            ready=(port, ping),
            seconds=container.startup_seconds,
            log=folder / "triton.log",
        )
        return _Serving(container, triton, port, path)

    def _record(self, endpoint: str) -> Path:
        return self._state / f"{endpoint}.json"
