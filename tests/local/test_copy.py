"""Copies between real servers, in all four directions, and what is pruned there."""

import json
import re
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from object_stores import Bucket, gcs_emulator, s3_emulator, s3_server
from repositories import SIZES, write_files, write_manifest
from typer.testing import CliRunner

from cli import store as commands
from cli.main import app
from model_repo.manifest import MANIFEST_NAME, Engine, Manifest, repository_prefix
from model_repo.prune import plan_pruning, prune
from model_repo.publish import PublishError, copy, publish, verify
from model_repo.store import PART_SIZE_BYTES, Store

TOTAL = sum(SIZES.values())


@dataclass(frozen=True)
class Buckets:
    """An S3 server, moto and two Cloud Storages."""

    s3: Bucket
    moto: Bucket
    gcs: Bucket
    other_gcs: Bucket


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Generator[Buckets]:
    with ExitStack() as stack:
        servers = (s3_server, s3_emulator, gcs_emulator, gcs_emulator)
        yield Buckets(*(stack.enter_context(server(tmp_path_factory.mktemp(server.__name__))) for server in servers))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("repository"))


@pytest.fixture
def manifest(files: Path, request: pytest.FixtureRequest) -> Manifest:
    """One of this test alone."""
    return write_manifest(files, request.node.name)


def silent(_: int) -> None:
    """A progress that nobody watches."""


def key_of(manifest: Manifest, path: str) -> str:
    return f"{repository_prefix(manifest.name, manifest.digest)}/{path}"


@pytest.mark.parametrize(("source", "target"), [("s3", "gcs"), ("gcs", "s3"), ("moto", "s3"), ("gcs", "other_gcs")])
def test_a_copy_has_the_same_bytes_and_is_made_once(
    buckets: Buckets, files: Path, manifest: Manifest, source: str, target: str
) -> None:
    one, other = getattr(buckets, source).open(), getattr(buckets, target).open()
    publish(files, manifest, one, silent)
    done: list[int] = []
    copied = copy(manifest.name, manifest.digest, one, other, done.append)
    assert (copied.sent_bytes, sum(done)) == (TOTAL, TOTAL)
    assert verify(other, manifest.name, manifest.digest, silent) == []
    assert copy(manifest.name, manifest.digest, one, other, silent).sent_bytes == 0


def test_a_copy_sends_no_part_that_the_target_holds(buckets: Buckets, files: Path, manifest: Manifest) -> None:
    source, target = buckets.gcs.open(), buckets.s3.open()
    publish(files, manifest, source, silent)
    part = (files / "big/1/model.onnx").read_bytes()[PART_SIZE_BYTES : 2 * PART_SIZE_BYTES]
    target.upload(key_of(manifest, "big/1/model.onnx")).put(2, part, target.checksum(part))
    assert copy(manifest.name, manifest.digest, source, target, silent).sent_bytes == TOTAL - PART_SIZE_BYTES
    assert verify(target, manifest.name, manifest.digest, silent) == []


def test_a_damaged_source_is_named_and_the_copy_has_no_manifest(
    buckets: Buckets, files: Path, manifest: Manifest
) -> None:
    source, target = buckets.gcs.open(), buckets.s3.open()
    publish(files, manifest, source, silent)
    replace(source, key_of(manifest, "big/config.pbtxt"), bytes(SIZES["big/config.pbtxt"]))
    with pytest.raises(PublishError, match=r"^gs://models/models/big/\w+/big/config\.pbtxt: SHA-256"):
        copy(manifest.name, manifest.digest, source, target, silent)
    assert target.get(key_of(manifest, MANIFEST_NAME)) is None


def test_what_is_not_published_cannot_be_copied(buckets: Buckets) -> None:
    with pytest.raises(PublishError, match="there is none: publish the repository"):
        copy("big", "0" * 64, buckets.s3.open(), buckets.gcs.open(), silent)


@pytest.mark.parametrize("where", ["s3", "gcs"])
def test_pruning_removes_what_is_old_and_not_kept_its_manifest_first(
    buckets: Buckets, files: Path, where: str, request: pytest.FixtureRequest
) -> None:
    store: Store = getattr(buckets, where).open()
    kept, gone, half = (write_manifest(files, f"{request.node.name} {what}") for what in ("kept", "gone", "half"))
    for manifest in (kept, gone):
        publish(write_at(files, manifest), manifest, store, silent)
        pointer = json.dumps({"digest": manifest.digest}).encode()
        store.put_new(f"engines/{manifest.digest[:8]}.json", pointer, store.checksum(pointer))
    store.put_new(key_of(half, "big/config.pbtxt"), b"x", store.checksum(b"x"))
    part = bytes(PART_SIZE_BYTES)
    store.upload(key_of(half, "big/1/model.onnx")).put(1, part, store.checksum(part))
    ours = {kept.digest, gone.digest, half.digest}
    others = {found.key.split("/")[2] for found in store.objects("models/")} - ours

    now = datetime.now(UTC)
    assert plan_pruning(store, others, now - timedelta(hours=1)).is_empty
    pruning = plan_pruning(store, {kept.digest, *others}, now + timedelta(hours=1))
    assert {(found.digest, found.complete) for found in pruning.repositories} == {
        (gone.digest, True),
        (half.digest, False),
    }
    assert [found.keys[0] for found in pruning.repositories if found.complete] == [key_of(gone, MANIFEST_NAME)]
    assert pruning.pointers == (f"engines/{gone.digest[:8]}.json",)
    assert {upload.key for upload in pruning.uploads} == {key_of(half, "big/1/model.onnx")}
    prune(store, pruning)
    assert plan_pruning(store, {kept.digest, *others}, now + timedelta(hours=1)).is_empty
    assert verify(store, kept.name, kept.digest, silent) == []
    assert store.unfinished("models/") == []


def test_the_commands_copy_verify_and_prune_but_never_what_a_stack_file_names(
    buckets: Buckets, files: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bucket in (buckets.s3, buckets.gcs):
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
    publish(files, manifest, buckets.s3.open(), silent)
    gcs, names = buckets.gcs.url, ["big", manifest.digest]

    def run(*command: str) -> str:
        result = CliRunner().invoke(app, ["model", *command], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    copied = json.loads(run("copy", *names, "--from", buckets.s3.url, "--to", gcs, "--json"))
    assert copied[0]["uri"] == f"{gcs}/models/big/{manifest.digest}"
    run("verify", *names, gcs)

    stack = (commands.PROJECT_FOLDER / "Pulumi.dev.yaml").read_text()
    named = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert named in stack
    (tmp_path / "Pulumi.dev.yaml").write_text(stack.replace(named, manifest.digest))
    monkeypatch.setattr(commands, "PROJECT_FOLDER", tmp_path)
    options = ("prune", gcs, "--older-than", "0", "--name", "big", "--json")
    listed = json.loads(run(*options, "--dry-run"))
    assert manifest.digest not in {found["digest"] for found in listed["repositories"]}
    (tmp_path / "Pulumi.dev.yaml").unlink()
    refused = CliRunner().invoke(app, ["model", *options], input="n\n")
    assert refused.exit_code == 1
    run("verify", *names, gcs)
    run(*options, "--yes")
    assert buckets.gcs.open().objects(repository_prefix(*names)) == []


def test_the_check_of_a_stack_holds_the_stored_engine_against_gpu_and_image(
    buckets: Buckets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "repository"
    (folder / "bert-large").mkdir(parents=True)
    (folder / "bert-large/config.pbtxt").touch()
    listed = Manifest.of_folder(
        folder, name="bert-large", variant="trt-db", precision="fp16", device="t4", weights="hub@1"
    )
    engine = Engine(
        key="0" * 64,
        onnx_sha256="1" * 64,
        triton_release="24.09",
        tensorrt="10.4.0.26",
        compute_capability="8.6",
        driver="560.35.03",
        command=("trtexec",),
        max_abs_error=0,
    )
    manifest = listed.model_copy(update={"engine": engine})
    publish(write_at(folder, manifest), manifest, buckets.gcs.open(), silent)
    for name, value in buckets.gcs.environment.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "Pulumi.mine.yaml"
    stack = (commands.PROJECT_FOLDER / "Pulumi.dev.yaml").read_text()
    file.write_text(re.sub(r"digest: \w{64}", f"digest: {manifest.digest}", stack))
    monkeypatch.setattr("cli.engine.PROJECT_FOLDER", tmp_path)
    checked = CliRunner().invoke(app, ["model", "check", "--stack", "mine", "--store", buckets.gcs.url, "--json"])
    assert checked.exit_code == 1
    wrong = {found["what"].partition(": ")[2] for found in json.loads(checked.stdout) if not found["ok"]}
    assert wrong == {"engine and GPU", "engine and image"}


def write_at(files: Path, manifest: Manifest) -> Path:
    """The folder with another manifest in it."""
    (files / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return files


def replace(store: Store, key: str, content: bytes) -> None:
    store.delete([key])
    store.put_new(key, content, store.checksum(content))
