"""The local cloud as a whole, without Tritons: starting, healing, stopping, and the environment that it hands out."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from processes import gone

from localcloud.cloud import LocalCloud, Ports
from localcloud.supervisor import SupervisorError, port_is_free
from localcloud.toolchain import CHECKOUT


def silent(_: str) -> None:
    """Read no report."""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with LocalCloud(tmp_path_factory.mktemp("cloud"), Ports.free(), t4_nodes=1, triton=False) as cloud:
        yield cloud


def outcome(cloud: LocalCloud, *command: str) -> str:
    """What a command prints in the cloud's environment."""
    result = subprocess.run(
        command, env=os.environ | cloud.environment(), capture_output=True, text=True, check=False, cwd=CHECKOUT
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def recorded_pids(state: Path) -> list[int]:
    return [json.loads(file.read_text())["pid"] for file in (state / "pids").glob("*.json")]


def test_every_process_runs(cloud: LocalCloud):
    states = {name: state for name, state, _ in cloud.status()}
    names = ("aws", "gcs", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
    assert states == dict.fromkeys(names, "running")


def test_kubectl_boto3_and_google_cloud_storage_work_in_its_environment(cloud: LocalCloud):
    assert outcome(cloud, "kubectl", "get", "nodes", "--output=name").split() == ["node/system-0", "node/t4-0"]
    buckets = (
        "import boto3; s3 = boto3.client('s3'); s3.create_bucket(Bucket='bucket'); print(s3.list_buckets()['Buckets'])"
    )
    assert "'Name': 'bucket'" in outcome(cloud, "python", "-c", buckets)
    gcs = (
        "from google.cloud import storage\n"
        "blob = storage.Client().create_bucket('bucket').blob('x')\n"
        "blob.upload_from_string('bytes', if_generation_match=0)\n"
        "print(blob.download_as_bytes(checksum='crc32c'))"
    )
    assert outcome(cloud, "python", "-c", gcs) == "b'bytes'\n"


def test_the_pulumi_cli_works_in_its_environment(cloud: LocalCloud):
    assert outcome(cloud, "pulumi", "version").startswith("v3.")
    assert f"file://{cloud.state / 'pulumi'}" in outcome(cloud, "pulumi", "whoami", "--verbose")


def test_coming_up_again_starts_nothing(cloud: LocalCloud):
    before = sorted(recorded_pids(cloud.state))
    assert cloud.up(silent) == []
    assert sorted(recorded_pids(cloud.state)) == before


def test_only_what_died_is_started_anew(cloud: LocalCloud):
    pid = json.loads((cloud.state / "pids" / "gcs.json").read_text())["pid"]
    psutil.Process(pid).kill()
    assert cloud.up(silent) == ["gcs"]


def test_a_port_in_use_is_an_error_that_names_it(tmp_path: Path):
    ports = Ports.free()
    with (
        socket.create_server(("127.0.0.1", ports.kubernetes)),
        pytest.raises(SupervisorError, match=f"port {ports.kubernetes} .* kube-apiserver needs, is in use by"),
    ):
        LocalCloud(tmp_path, ports, t4_nodes=1, triton=False).up(silent)
    LocalCloud(tmp_path, ports, t4_nodes=1, triton=False).down()
    assert recorded_pids(tmp_path) == []


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_going_down_finds_what_an_interrupted_start_left(tmp_path: Path, processes: int):
    ports = Ports.free()
    code = (
        "import signal\n"
        "from pathlib import Path\n"
        "from localcloud.cloud import LocalCloud, Ports\n"
        # A shell's background job, which a test run may be, is born deaf to it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"LocalCloud(Path({str(tmp_path)!r}), {ports!r}, 1, triton=False).up(print)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=CHECKOUT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while len(recorded_pids(tmp_path)) < processes:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    starter.send_signal(signal.SIGINT)
    assert starter.wait() != 0
    pids = recorded_pids(tmp_path)
    assert len(pids) >= processes

    LocalCloud(tmp_path, ports, t4_nodes=1, triton=False).down()

    assert all(map(gone, pids))
    assert all(map(port_is_free, (ports.aws, ports.gcs, ports.kubernetes, ports.etcd, ports.etcd_peer)))


def test_status_and_down_of_a_cloud_that_never_was_do_nothing(tmp_path: Path):
    never = LocalCloud(tmp_path / "never", Ports.free(), t4_nodes=1)
    assert never.status() == []
    never.down()
    assert not (tmp_path / "never").exists()
