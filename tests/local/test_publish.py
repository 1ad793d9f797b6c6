"""Publishing to real servers: killed and continued, damaged and found."""

import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import boto3
import pytest
from object_stores import BUCKET, Bucket, gcs_emulator, s3_emulator, s3_server
from repositories import SIZES, flip_a_byte, write_files, write_manifest

from model_repo.manifest import MANIFEST_NAME, Manifest, repository_prefix
from model_repo.publish import PublishError, publish, verify
from model_repo.store import PART_SIZE_BYTES, Store, StoreError, open_store

SERVERS = {"s3": s3_server, "moto": s3_emulator, "gcs": gcs_emulator}
TOTAL = sum(SIZES.values())
KILLS = {"s3": 10, "gs": 4}  # the emulator of Cloud Storage is slow


DAMAGE: list[tuple[str, Callable[[bytes], bytes] | None, str]] = [
    ("big/1/weights.bin", lambda content: b"\0" + content[1:], "big/1/weights.bin: SHA-256"),
    ("big/1/weights.bin", lambda content: content + b"more", "big/1/weights.bin: SHA-256"),
    ("big/config.pbtxt", None, "big/config.pbtxt: missing"),
    ("big/stray", lambda _: b"x", "big/stray: not in the manifest"),
]
UNFIT: list[tuple[Callable[[Path], None], str]] = [
    (lambda folder: (folder / "small/2").mkdir(), "small/2: empty, and a store has no empty folders"),
    (lambda folder: (folder / "small/stray").touch(), "small/stray: not in the manifest"),
    (lambda folder: (folder / "big/config.pbtxt").unlink(), "big/config.pbtxt: missing"),
    (lambda folder: flip_a_byte(folder / MANIFEST_NAME, 9), "manifest.json: not the one of digest"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module", params=SERVERS)
def bucket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Bucket]:
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
def store(bucket: Bucket) -> Store:
    return bucket.open()


@pytest.fixture
def manifest(files: Path, request: pytest.FixtureRequest) -> Manifest:
    """One of this test alone."""
    return write_manifest(files, request.node.name)


def silent(_: int) -> None:
    """A progress that nobody watches."""


def prefix_of(manifest: Manifest) -> str:
    return repository_prefix(manifest.name, manifest.digest)


def start(folder: Path, bucket: Bucket, read_lines: int = 0) -> subprocess.Popen[str]:
    """A process that publishes, and has said so many times that it has done a part."""
    script = Path(__file__).parent / "publish_process.py"
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), bucket.url],
        env={**os.environ, **bucket.environment, "PYTHONPATH": str(script.parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    for _ in range(read_lines):
        process.stdout.readline()
    return process


def held_bytes(store: Store, manifest: Manifest) -> int:
    """What the store holds of a repository's files, whole ones and parts."""
    prefix = prefix_of(manifest)
    whole = {found.key: found.size_bytes for found in store.objects(f"{prefix}/")}
    whole.pop(f"{prefix}/{MANIFEST_NAME}", None)
    keys = {upload.key for upload in store.unfinished(prefix)} - whole.keys()
    return sum(whole.values()) + sum(part.size_bytes for key in keys for part in store.upload(key).parts.values())


def parts_stored(log: Path) -> Counter[tuple[str, str]]:
    """How often the S3 server took each part of each object, by its access log; nothing where there is none."""
    line = re.compile(r"s3_UploadPart (\S+) \S+[?&]partNumber=(\d+)\S* 200 ")
    return Counter(line.findall(log.read_text() if log.exists() else ""))


class Reader(Thread):
    """Looks for a manifest all the time, and at the files as soon as it is there."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        super().__init__()
        self._store, self._manifest = store, manifest
        self._ended = Event()
        self.found: dict[str, int] = {}

    def run(self) -> None:
        prefix = prefix_of(self._manifest)
        while not self._ended.wait(0.005):
            if self._store.get(f"{prefix}/{MANIFEST_NAME}"):
                objects = self._store.objects(f"{prefix}/")
                self.found = {found.key.removeprefix(f"{prefix}/"): found.size_bytes for found in objects}
                return

    def __enter__(self) -> "Reader":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


@pytest.mark.parametrize("bucket", ["s3", "gcs"], indirect=True)  # moto does not say which parts it holds
def test_a_killed_publish_continues_without_sending_finished_parts_again(files: Path, bucket: Bucket) -> None:
    store, moments = bucket.open(), random.Random(4)  # noqa: S311 - repeatable
    halves = 0
    for kill in range(kills := KILLS[bucket.url[:2]]):
        manifest = write_manifest(files, f"killed {kill}")
        with Reader(store, manifest) as reader:
            process = start(files, bucket, read_lines=moments.randrange(len(SIZES) + 3))
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=moments.uniform(0, 0.05))
            process.kill()
            process.communicate()
            finished = set(store.objects(f"{prefix_of(manifest)}/"))
            held = held_bytes(store, manifest)
            halves += 0 < held < TOTAL
            again = start(files, bucket).communicate()[0].split()[-1]
            reader.join(timeout=30)
        assert int(again) <= TOTAL - held  # less, where the server ended by itself what had reached it whole
        assert reader.found == {**SIZES, MANIFEST_NAME: len(manifest.to_bytes())}
        assert finished <= set(store.objects(f"{prefix_of(manifest)}/")), "an object was written again"
        assert verify(store, manifest.name, manifest.digest, silent) == []
        assert store.unfinished(prefix_of(manifest)) == []
    assert halves >= kills // 3, "too few of the kills came while files were being sent"
    stored = parts_stored(bucket.log)
    assert bool(stored) == bucket.log.exists()
    assert [part for part, times in stored.items() if times > 1] == []


def test_what_is_sent_is_counted_and_is_not_sent_again(files: Path, store: Store, manifest: Manifest) -> None:
    done: list[int] = []
    first = publish(files, manifest, store, done.append)
    assert (first.sent_bytes, sum(done), first.size_bytes) == (TOTAL, TOTAL, TOTAL)
    assert first.uri == f"{store.url}/{prefix_of(manifest)}"
    assert publish(files, manifest, store, done.append).sent_bytes == 0
    assert sum(done) == 2 * TOTAL


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_publishing_again_asks_for_the_manifest_and_nothing_more(
    files: Path, bucket: Bucket, store: Store, manifest: Manifest
) -> None:
    publish(files, manifest, store, silent)
    before = bucket.log.read_text()
    publish(files, manifest, store, silent)
    (request,) = bucket.log.read_text().removeprefix(before).splitlines()
    assert f"s3_GetObject {prefix_of(manifest)}/{MANIFEST_NAME} " in request


@pytest.mark.parametrize("path", ["big/1/model.onnx", "big/config.pbtxt"])
def test_a_flipped_byte_of_the_source_is_named_and_nothing_can_be_read(
    tmp_path: Path, store: Store, path: str, request: pytest.FixtureRequest
) -> None:
    manifest = write_manifest(write_files(tmp_path), request.node.name)
    flip_a_byte(tmp_path / path, SIZES[path] - 1)
    with pytest.raises(PublishError, match=rf"{path}: SHA-256 \w+ .*, the manifest says"):
        publish(tmp_path, manifest, store, silent)
    stored = {found.key.removeprefix(f"{prefix_of(manifest)}/") for found in store.objects(prefix_of(manifest))}
    assert not stored & {path, MANIFEST_NAME}
    flip_a_byte(tmp_path / path, SIZES[path] - 1)
    publish(tmp_path, manifest, store, silent)
    assert verify(store, manifest.name, manifest.digest, silent) == []


@pytest.mark.parametrize("path", ["big/1/weights.bin", "big/config.pbtxt"])
def test_other_bytes_in_the_store_are_named_and_never_overwritten(
    files: Path, store: Store, path: str, request: pytest.FixtureRequest
) -> None:
    manifest, other = write_manifest(files, request.node.name), bytes(SIZES[path])
    key = f"{prefix_of(manifest)}/{path}"
    put(store, key, other)
    with pytest.raises(StoreError, match=rf"{path}: holds other bytes, and nothing is overwritten"):
        publish(files, manifest, store, silent)
    assert store.get(key) == other
    assert store.get(f"{prefix_of(manifest)}/{MANIFEST_NAME}") is None


def test_an_object_that_is_there_already_with_the_right_bytes_is_taken(
    files: Path, store: Store, manifest: Manifest
) -> None:
    put(store, f"{prefix_of(manifest)}/big/1/weights.bin", (files / "big/1/weights.bin").read_bytes())
    assert publish(files, manifest, store, silent).sent_bytes == TOTAL - SIZES["big/1/weights.bin"]


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_an_object_that_another_program_wrote_is_compared_by_reading_it_back(
    files: Path, bucket: Bucket, store: Store, manifest: Manifest
) -> None:
    environment = bucket.environment
    session: Any = boto3.Session(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
    client = session.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL_S3"], region_name="us-east-1")
    key = f"{prefix_of(manifest)}/big/1/weights.bin"
    client.upload_file(str(files / "big/1/weights.bin"), BUCKET, key, {"ChecksumAlgorithm": "SHA256"})
    assert store.stored_checksum(key) is None
    assert publish(files, manifest, store, silent).sent_bytes == TOTAL - SIZES["big/1/weights.bin"]


@pytest.mark.parametrize(
    ("path", "change", "line"),
    DAMAGE,
)
def test_verify_names_what_is_damaged_in_the_store(
    files: Path,
    store: Store,
    path: str,
    change: Callable[[bytes], bytes] | None,
    line: str,
    request: pytest.FixtureRequest,
) -> None:
    manifest = write_manifest(files, request.node.name)
    publish(files, manifest, store, silent)
    key = f"{prefix_of(manifest)}/{path}"
    content = store.get(key) or b""
    store.delete([key])
    if change:
        put(store, key, change(content))
    (difference,) = verify(store, manifest.name, manifest.digest, silent)
    assert difference.startswith(line)


def test_a_flipped_byte_of_the_stored_manifest_is_found(files: Path, store: Store, manifest: Manifest) -> None:
    publish(files, manifest, store, silent)
    key = f"{prefix_of(manifest)}/{MANIFEST_NAME}"
    store.delete([key])
    put(store, key, manifest.to_bytes().replace(b'"device": "cpu"', b'"device": "cpv"'))
    with pytest.raises(PublishError, match=r"manifest\.json: SHA-256 \w+, not its digest"):
        verify(store, manifest.name, manifest.digest, silent)
    with pytest.raises(StoreError, match=r"manifest\.json: its bytes are not those of its digest"):
        publish(files, manifest, store, silent)


@pytest.mark.parametrize(
    ("spoil", "refusal"),
    UNFIT,
)
@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_a_folder_that_cannot_be_stored_as_it_is_is_refused_before_anything_is_sent(
    tmp_path: Path, store: Store, spoil: Callable[[Path], None], refusal: str
) -> None:
    manifest = write_manifest(write_files(tmp_path), refusal)
    spoil(tmp_path)
    with pytest.raises(PublishError, match=re.escape(refusal)):
        publish(tmp_path, manifest, store, silent)
    assert store.objects(prefix_of(manifest)) == []


def test_a_bucket_that_is_not_there_is_one_line(files: Path, bucket: Bucket, manifest: Manifest) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bucket.environment.items():
            patch.setenv(name, value)
        missing = open_store(bucket.url.replace(BUCKET, "nowhere"))
    with pytest.raises(StoreError, match=r"^(s3|gs)://nowhere.*") as caught:
        publish(files, manifest, missing, silent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bucket", ["s3", "gcs"], indirect=True)
def test_the_store_refuses_bytes_that_do_not_have_their_checksum(store: Store, request: pytest.FixtureRequest) -> None:
    key = f"models/{request.node.name}"
    with pytest.raises(StoreError, match=r"(BadDigest|400)"):
        store.put_new(key, b"content", store.checksum(b"other"))
    part = bytes(PART_SIZE_BYTES)
    with pytest.raises(StoreError, match=r"(BadDigest|400)"):
        store.upload(key).put(1, part, store.checksum(part) ^ 1)
    assert store.get(key) is None


def test_the_store_creates_no_object_twice(store: Store, request: pytest.FixtureRequest) -> None:
    key = f"models/{request.node.name}"
    put(store, key, b"first")
    put(store, key, b"second")
    assert store.get(key) == b"first"


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)  # both emulators ignore the condition of this request
def test_the_store_makes_no_object_of_parts_where_there_is_one(store: Store, request: pytest.FixtureRequest) -> None:
    key, part = f"models/{request.node.name}", bytes(PART_SIZE_BYTES)
    put(store, key, b"first")
    upload = store.upload(key)
    upload.put(1, part, store.checksum(part))
    upload.finish(1, store.checksum(part))
    assert store.get(key) == b"first"
    assert store.unfinished(key) == []


def put(store: Store, key: str, content: bytes) -> None:
    """Create an object that only looks right."""
    store.put_new(key, content, store.checksum(content))
