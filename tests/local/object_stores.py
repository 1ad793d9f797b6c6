"""Buckets to publish to: of a real S3 server, of moto, and of the Cloud Storage emulator, each on a port of its own."""

import secrets
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from google.cloud import storage

from localcloud.pod import free_port
from localcloud.supervisor import Program, Supervisor, answers, port_is_free
from localcloud.toolchain import find_or_build, versitygw
from model_repo.store import Store, open_store

BUCKET = "models"


@dataclass(frozen=True)
class Bucket:
    """An empty bucket, and how the SDKs reach it."""

    url: str
    environment: dict[str, str]
    log: Path
    """Its server's access log, where it writes one."""

    def open(self) -> Store:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            return open_store(self.url)


@contextmanager
def s3_server(folder: Path) -> Generator[Bucket]:
    """versitygw, an S3 server: it verifies checksums, keeps conditions, and lists the checksums of parts."""
    (folder / "data").mkdir()
    key, log, port = secrets.token_hex(16), folder / "access.log", free_port()
    server = (str(versitygw(print)), f"--port=127.0.0.1:{port}", "--quiet", "--keep-alive", f"--access-log={log}")
    program = Program(
        "versitygw",
        (*server, "posix", str(folder / "data")),
        ready=lambda: not port_is_free(port),
        environment={"ROOT_ACCESS_KEY": "root", "ROOT_SECRET_KEY": key},
    )
    with _running(folder, program):
        yield _s3_bucket(f"http://127.0.0.1:{port}", key, log)


@contextmanager
def s3_emulator(folder: Path) -> Generator[Bucket]:
    """The local cloud's AWS: moto, which verifies nothing."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = (sys.executable, "-m", "localcloud.aws_emulator", f"--port={port}", f"--state={folder}", "--no-triton")
    with _running(folder, Program("aws", command, ready=lambda: answers(f"{url}/moto-api/"))):
        yield _s3_bucket(url, "local", folder / "none")


@contextmanager
def gcs_emulator(folder: Path) -> Generator[Bucket]:
    """The local cloud's Cloud Storage."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    server = (str(find_or_build(print).gcs), "-backend=memory", "-scheme=http", "-host=127.0.0.1", f"-port={port}")
    where = (f"-external-url={url}", f"-public-host=127.0.0.1:{port}", "-log-level=warn")
    with _running(folder, Program("gcs", server + where, ready=lambda: answers(f"{url}/_internal/healthcheck"))):
        environment = {"STORAGE_EMULATOR_HOST": url, "GOOGLE_CLOUD_PROJECT": "local"}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            client: Any = storage.Client()
            client.create_bucket(BUCKET)
        yield Bucket(f"gs://{BUCKET}", environment, folder / "none")


@contextmanager
def _running(folder: Path, program: Program) -> Generator[None]:
    supervisor = Supervisor(folder)
    try:
        supervisor.bring_up([program])
        yield
    finally:
        supervisor.stop([program.name])


def _s3_bucket(url: str, secret: str, log: Path) -> Bucket:
    session: Any = boto3.Session("root", secret, region_name="us-east-1")
    session.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)
    environment = {
        "AWS_ACCESS_KEY_ID": "root",
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": url,
    }
    return Bucket(f"s3://{BUCKET}", environment, log)
