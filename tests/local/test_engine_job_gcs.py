"""The steps around the build in a Kubernetes Job, against a real Cloud Storage server on loopback."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from tiny_engine import STAND_INS, Job, order

from localcloud.pod import free_port
from localcloud.supervisor import Program, Supervisor, answers
from localcloud.toolchain import find_or_build
from model_repo import engine_job
from model_repo.engine import EngineOrder
from model_repo.engine_job.compile import JobError
from model_repo.engine_job.gcs import GcsStore
from model_repo.engine_job.lease import Lease, lease_path, pointer_path, take_lease
from model_repo.engine_job.on_gke import fetch, publish
from model_repo.manifest import Manifest

BUCKET = "engines"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port, supervisor = free_port(), Supervisor(tmp_path_factory.mktemp("gcs"))
    url = f"http://127.0.0.1:{port}"
    program = str(find_or_build(lambda _: None).gcs)
    options = ("-backend=memory", "-scheme=http", "-host=127.0.0.1", f"-port={port}", f"-external-url={url}")
    ready = f"{url}/_internal/healthcheck"
    supervisor.bring_up([Program("gcs", (program, *options), ready=lambda: answers(ready), ports=(port,))])
    yield url
    supervisor.stop(["gcs"])


class Store:
    """One bucket, through the job's own client and through Google's."""

    def __init__(self, url: str, name: str) -> None:
        google: Any = storage.Client("local", AnonymousCredentials(), client_options={"api_endpoint": url})
        self.google, self.ours = google.create_bucket(name), GcsStore(name)

    def names(self, prefix: str = "") -> list[str]:
        return sorted(blob.name for blob in self.google.list_blobs(prefix=prefix))

    def put_sources(self, job: Job) -> None:
        for path in (job.folder / "source").rglob("*"):
            if path.is_file():
                name = path.relative_to(job.folder / "source")
                self.google.blob(f"{job.order.source_prefix}/{name}").upload_from_filename(str(path))


@pytest.fixture
def store(server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server)
    return Store(server, f"bucket-{hashlib.sha256(str(request.node.name).encode()).hexdigest()[:16]}")


def as_json(wanted: EngineOrder) -> dict[str, Any]:
    return wanted.model_dump(mode="json")


def build(job: Job, store: Store, name: str = "job-1", lease_s: float = 60) -> str:
    """Fetch, compile, publish, as the containers of one pod do; say which of them built."""
    fetch(as_json(job.order), store.ours, job.folder, Lease(name, time.time() + lease_s), poll_s=0.02)
    built = not (job.folder / "target/record.json").exists()
    assert job.run().returncode == 0
    publish(as_json(job.order), store.ours, job.folder)
    return "built" if built else "found"


def empty(folder: Path) -> Job:
    """The job in a pod that has nothing yet."""
    other = Job(folder)
    shutil.rmtree(folder / "source")
    return other


def test_a_job_makes_a_repository_whose_bytes_are_the_manifest_s(tmp_path: Path, store: Store) -> None:
    job = Job(tmp_path / "a")
    store.put_sources(job)
    assert build(empty(tmp_path / "b"), store) == "built"
    (manifest_name,) = [name for name in store.names("models/") if name.endswith("manifest.json")]
    manifest = Manifest.from_bytes(store.google.blob(manifest_name).download_as_bytes())
    assert manifest_name == f"models/bert-small/{manifest.digest}/manifest.json"
    for blob in store.google.list_blobs(prefix=manifest_name.removesuffix("/manifest.json")):
        path = tmp_path / "read" / blob.name.partition(f"{manifest.digest}/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        blob.download_to_filename(str(path))
    assert manifest.check_folder(tmp_path / "read") == []
    assert store.names(lease_path(job.order.key)) == []


def test_two_at_once_build_once_and_both_have_it(tmp_path: Path, store: Store) -> None:
    jobs = [Job(tmp_path / name) for name in "ab"]
    store.put_sources(jobs[0])
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(build, jobs, (store, store), ("a", "b")))
    assert sorted(outcomes) == ["built", "found"]
    assert len(store.names("models/")) == 3
    assert len([name for name in store.names("engines/") if name.endswith(".plan")]) == 1


def test_another_variant_of_the_same_engine_is_published_without_a_build(tmp_path: Path, store: Store) -> None:
    job = Job(tmp_path / "a")
    store.put_sources(job)
    build(job, store)
    other = Job(tmp_path / "b")
    other.order = order("trt-base")
    assert build(other, store, "job-2") == "found"
    assert len({name.split("/")[2] for name in store.names("models/")}) == 2


def test_a_lease_that_has_expired_is_taken_over_and_one_that_has_not_is_respected(store: Store) -> None:
    key, now = "0" * 64, time.time()
    dead, mine = Lease("dead", now - 1), Lease("mine", now + 60)
    assert take_lease(store.ours, key, dead) == dead
    assert take_lease(store.ours, key, mine) == mine
    assert take_lease(store.ours, key, Lease("late", now + 60)) == mine


def test_of_many_that_want_an_expired_lease_one_gets_it(store: Store) -> None:
    key, now = "1" * 64, time.time()
    take_lease(store.ours, key, Lease("dead", now - 1))
    start = threading.Barrier(8)

    def ask(number: int) -> Lease:
        start.wait()
        return take_lease(store.ours, key, Lease(str(number), now + 60))

    with ThreadPoolExecutor(8) as pool:
        holders = list(pool.map(ask, range(8)))
    assert len(set(holders)) == 1


def test_a_pod_that_is_tried_again_finds_its_own_lease(tmp_path: Path, store: Store) -> None:
    job = Job(tmp_path / "a")
    store.put_sources(job)
    mine = Lease("job-1", time.time() + 60)
    for _ in range(2):
        fetch(as_json(job.order), store.ours, job.folder, mine, poll_s=0.02)
    assert build(job, store, "job-1") == "built"


def test_publishing_again_changes_nothing(tmp_path: Path, store: Store) -> None:
    job = Job(tmp_path / "a")
    store.put_sources(job)
    build(job, store)
    before = {blob.name: blob.generation for blob in store.google.list_blobs()}
    publish(as_json(job.order), store.ours, job.folder)
    assert {blob.name: blob.generation for blob in store.google.list_blobs()} == before


def test_a_reader_sees_the_manifest_last(tmp_path: Path, store: Store) -> None:
    job = Job(tmp_path / "a")
    store.put_sources(job)
    build(job, store)
    # This server's generations are microseconds.
    blobs = sorted(store.google.list_blobs(prefix="models/"), key=lambda blob: int(blob.generation))
    assert [blob.name.rpartition("/")[2] for blob in blobs] == ["model.plan", "config.pbtxt", "manifest.json"]


def test_sources_that_nobody_uploaded_are_told(tmp_path: Path, store: Store) -> None:
    with pytest.raises(JobError, match=r"model\.onnx is not in the bucket: upload the sources first"):
        build(empty(tmp_path / "a"), store)


def test_a_record_that_was_removed_in_between_is_told(tmp_path: Path, store: Store) -> None:
    job = Job(tmp_path / "a")
    store.put_sources(job)
    build(job, store)
    other = Job(tmp_path / "b")
    fetch(as_json(other.order), store.ours, other.folder, Lease("b", time.time() + 60), poll_s=0.02)
    store.ours.delete(pointer_path(other.order.key))
    with pytest.raises(JobError, match="is gone"):
        publish(as_json(other.order), store.ours, other.folder)
    assert json.loads((other.folder / "target/record.json").read_text())["location"]


def test_the_steps_run_as_the_pod_runs_them_from_a_config_map_and_on_the_standard_library(
    tmp_path: Path, store: Store
) -> None:
    job = Job(tmp_path / "a")
    store.put_sources(job)
    code = tmp_path / "code/model_repo/engine_job"  # no package around it, as in the container
    shutil.copytree(Path(engine_job.__file__).parent, code)
    (code / "order.json").write_text(job.order.model_dump_json())
    work, bucket = tmp_path / "work", store.google.name
    environment = {"PATH": f"{STAND_INS}:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path / "code")}
    for arguments in (
        ["on_gke", "fetch", code / "order.json", bucket, work, "uid", "60"],
        ["compile", code / "order.json", work / "source", work / "compile", work / "target"],
        ["on_gke", "publish", code / "order.json", bucket, work],
    ):
        command = [sys.executable, "-S", "-m", f"model_repo.engine_job.{arguments[0]}", *arguments[1:]]
        subprocess.run(command, cwd=tmp_path, env=os.environ | environment, check=True, capture_output=True)
    assert len(store.names("models/")) == 3
