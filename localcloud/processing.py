"""SageMaker's processing jobs: the entrypoint as a process here, between the emulated S3's inputs and outputs.

There is no container and no GPU: what the image would hold is looked for in `<state>/programs` first. The paths under
`/opt/ml` that a request names are a folder of the job's own.
"""

import logging
import os
import re
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from types_boto3_s3 import S3ServiceResource

_LOG = logging.getLogger(__name__)
_ROOT = "/opt/ml"
_MESSAGE_LIMIT = 1024
"""Characters of an ExitMessage: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeProcessingJob.html."""

Ended = Callable[[str, str | None], None]
"""Takes a job's last status and its ExitMessage."""


class Processing:
    """The jobs that run.

    Args:
        state: Folder of the jobs' files and logs (`processing/<job>`).
        s3: The emulated S3.
    """

    def __init__(self, state: Path, s3: "S3ServiceResource") -> None:
        self._state, self._s3 = state, s3
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped: set[str] = set()

    def run(self, request: Mapping[str, Any], ended: Ended) -> None:
        """Run the job of a CreateProcessingJob request in the background; ``ended`` is called once, at its end."""
        threading.Thread(target=self._run, args=(request, ended), daemon=True).start()

    def stop(self, name: str) -> None:
        """Stop a job, if it runs."""
        self._stopped.add(name)
        if process := self._running.get(name):
            process.terminate()

    def close(self) -> None:
        """Stop every job."""
        for name in list(self._running):
            self.stop(name)

    def _run(self, request: Mapping[str, Any], ended: Ended) -> None:
        name: str = request["ProcessingJobName"]
        folder = self._state / "processing" / name
        message = folder / "output" / "message"
        try:
            self._fetch(request, folder)
            message.parent.mkdir(parents=True, exist_ok=True)
            status = self._execute(request, folder)
            self._upload(request, folder)
        except (BotoCoreError, ClientError, OSError) as error:
            _LOG.error("processing job %s: %s", name, error)
            ended("Failed", str(error)[:_MESSAGE_LIMIT])
            return
        ended(status, message.read_text()[:_MESSAGE_LIMIT] if message.exists() else None)

    def _execute(self, request: Mapping[str, Any], folder: Path) -> str:
        """Run the entrypoint; return the job's last status."""
        name, container = request["ProcessingJobName"], request["AppSpecification"]
        command = [*container["ContainerEntrypoint"], *container.get("ContainerArguments", [])]
        environment = {
            **os.environ,
            "PATH": f"{self._state / 'programs'}{os.pathsep}{os.environ['PATH']}",
            **{key: _here(value, folder) for key, value in request.get("Environment", {}).items()},
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [_here(part, folder) for part in command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            self._running[name] = process
            if name in self._stopped:  # before it was started
                process.terminate()
            limit_s = request.get("StoppingCondition", {}).get("MaxRuntimeInSeconds")
            try:
                process.wait(limit_s)
            except subprocess.TimeoutExpired:
                self.stop(name)
                process.wait()
            del self._running[name]
        if name in self._stopped:
            return "Stopped"
        return "Failed" if process.returncode else "Completed"

    def _fetch(self, request: Mapping[str, Any], folder: Path) -> None:
        for given in request.get("ProcessingInputs", []):
            bucket, prefix = _location(given["S3Input"]["S3Uri"])
            target = Path(_here(given["S3Input"]["LocalPath"], folder))
            for entry in self._s3.Bucket(bucket).objects.filter(Prefix=prefix):
                path = target / entry.key.removeprefix(prefix).lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                self._s3.Bucket(bucket).download_file(entry.key, str(path))

    def _upload(self, request: Mapping[str, Any], folder: Path) -> None:
        for wanted in request.get("ProcessingOutputConfig", {}).get("Outputs", []):
            bucket, prefix = _location(wanted["S3Output"]["S3Uri"])
            source = Path(_here(wanted["S3Output"]["LocalPath"], folder))
            for path in source.rglob("*"):
                if path.is_file():
                    key = f"{prefix.rstrip('/')}/{path.relative_to(source).as_posix()}"
                    self._s3.Bucket(bucket).upload_file(str(path), key)


def _here(text: str, folder: Path) -> str:
    """A path of the container, on this machine."""
    return re.sub(rf"^{_ROOT}(?=/|$)", str(folder), text)


def _location(uri: str) -> tuple[str, str]:
    """Bucket and prefix."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, prefix
