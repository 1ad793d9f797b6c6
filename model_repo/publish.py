"""Sends repositories to a store, compares them there, and copies them between stores.

A repository lies under `models/<name>/<digest>/`. Its manifest is written last, so that a reader who finds the manifest
finds every file; and every object is created on the condition that it does not exist, so that nothing is overwritten.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore, Event
from typing import Final

from model_repo.manifest import MANIFEST_NAME, Manifest, ManifestFile, repository_prefix
from model_repo.store import CONNECTIONS, PART_SIZE_BYTES, Part, Store, StoreError, Upload

Progress = Callable[[int], None]
"""Takes the size, in bytes, of what is done since the last call; called from several threads."""

Blocks = Callable[[ManifestFile], Iterator[bytes]]
"""Reads a file from start to end, in blocks of ``PART_SIZE_BYTES``, the last one smaller."""

_FILES_AT_ONCE: Final = 2
"""A file is hashed by one thread: two keep two cores busy."""

_BLOCKS_AHEAD: Final = 3
"""Blocks of a stored file that are fetched before they are asked for."""


class PublishError(RuntimeError):
    """A repository that is not what its manifest says."""


@dataclass(frozen=True)
class Published:
    """A repository in a store."""

    uri: str
    """`s3://…` or `gs://…` of the repository, without a slash at its end."""
    size_bytes: int
    """All its files together."""
    sent_bytes: int
    """What this run sent: less than all where an earlier run had sent some, 0 where the repository was there."""


def publish(folder: Path, manifest: Manifest, store: Store, progress: Progress, prefix: str | None = None) -> Published:
    """Send a repository to a store, or the rest of it where an earlier run was interrupted.

    Every byte is compared with the manifest as it is sent, and the store's checksum with that of the bytes sent. A part
    that the store holds already is not sent again. Where the store has the manifest, everything else is there too:
    nothing is read or sent.

    Args:
        folder: the repository.
        manifest: its manifest; what it does not list is refused.
        store: where to.
        progress: told of every byte, sent or found there.
        prefix: where in the store, without a slash at its end; None: where repositories are served from.

    Raises:
        PublishError: ``folder`` is not what ``manifest`` says.
        StoreError: the store cannot be used, or holds other bytes.
    """
    if refused := _unlisted(folder, manifest):
        raise PublishError(f"{folder}: {'; '.join(refused)}: build the repository again")

    def blocks(file: ManifestFile) -> Iterator[bytes]:
        try:
            with (folder / file.path).open("rb") as source:
                while block := source.read(PART_SIZE_BYTES):
                    yield block
        except OSError as error:
            raise PublishError(f"{folder / file.path}: {error.strerror}: build the repository again") from error

    prefix = prefix or repository_prefix(manifest.name, manifest.digest)
    return _send(manifest, prefix, str(folder), blocks, store, progress)


def copy(name: str, digest: str, source: Store, target: Store, progress: Progress) -> Published:
    """Copy a repository from one store to another, through memory, never through a disk.

    It gives what ``publish`` gives: every byte is compared with the manifest on its way, the manifest is written last,
    and a run after an interrupted one reads all again but sends only the parts that ``target`` does not hold.

    Raises:
        PublishError: ``source`` does not have the repository, or not the bytes that its digest names.
        StoreError: a store cannot be used, or ``target`` holds other bytes.
    """
    manifest = stored_manifest(source, name, digest)
    prefix = repository_prefix(name, digest)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return _send(
            manifest,
            prefix,
            f"{source.url}/{prefix}",
            lambda file: _stored_blocks(source, f"{prefix}/{file.path}", file.size_bytes, pool),
            target,
            progress,
        )


def verify(store: Store, name: str, digest: str, progress: Progress) -> list[str]:
    """Read a stored repository back: one line for each file that is not what the digest names, none when all are.

    Raises:
        PublishError: the manifest is missing, or has not this digest.
        StoreError: the store cannot be used.
    """
    manifest = stored_manifest(store, name, digest)
    prefix = repository_prefix(name, digest)
    stored = {found.key.removeprefix(f"{prefix}/"): found.size_bytes for found in store.objects(f"{prefix}/")}
    listed = {file.path for file in manifest.files}

    def compare(file: ManifestFile) -> list[str]:
        if file.path not in stored:
            return [f"{file.path}: missing"]
        sha256 = hashlib.sha256()
        # Not `file.size_bytes`: what was appended to a file makes it another.
        for block in _stored_blocks(store, f"{prefix}/{file.path}", stored[file.path], pool):
            sha256.update(block)
            progress(len(block))
        return file.differences(stored[file.path], sha256.hexdigest())

    with ThreadPoolExecutor(CONNECTIONS) as pool, ThreadPoolExecutor(_FILES_AT_ONCE) as files:
        lines = [line for found in files.map(compare, manifest.files) for line in found]
    return lines + [f"{path}: not in the manifest" for path in sorted(stored.keys() - listed - {MANIFEST_NAME})]


def stored_manifest(store: Store, name: str, digest: str) -> Manifest:
    """The manifest of a stored repository, which has the digest that it is stored under.

    Raises:
        PublishError: there is none, or its bytes have another digest.
        StoreError: the store cannot be used.
    """
    key = f"{repository_prefix(name, digest)}/{MANIFEST_NAME}"
    content = store.get(key)
    if content is None:
        raise PublishError(f"{store.url}/{key}: there is none: publish the repository, or name another digest")
    actual = hashlib.sha256(content).hexdigest()
    if actual != digest:
        raise PublishError(f"{store.url}/{key}: SHA-256 {actual}, not its digest: remove it and publish again")
    return Manifest.from_bytes(content)


def _send(manifest: Manifest, prefix: str, source: str, blocks: Blocks, store: Store, progress: Progress) -> Published:
    """Send every file, then the manifest."""
    uri, key, content = f"{store.url}/{prefix}", f"{prefix}/{MANIFEST_NAME}", manifest.to_bytes()
    stored = store.get(key)
    sent_bytes = 0
    if stored is None:
        sent_bytes = _Sender(manifest, prefix, source, blocks, store, progress).send()
        store.put_new(key, content, store.checksum(content))
        stored = store.get(key)
        for left in store.unfinished(f"{prefix}/"):  # by a run that was killed once it had made its object
            store.abort(left)
    else:
        progress(manifest.size_bytes)
    if stored != content:
        raise StoreError(f"{uri}/{MANIFEST_NAME}: its bytes are not those of its digest: remove it and publish again")
    return Published(uri, manifest.size_bytes, sent_bytes)


class _Sender:
    """Sends the files of one repository: some at a time, the parts of each in parallel."""

    def __init__(
        self, manifest: Manifest, prefix: str, source: str, blocks: Blocks, store: Store, progress: Progress
    ) -> None:
        self._files = sorted(manifest.files, key=lambda file: -file.size_bytes)  # the longest first, to end together
        self._prefix = prefix
        self._source = source
        self._blocks = blocks
        self._store = store
        self._progress = progress
        self._stopped = Event()
        self._room = BoundedSemaphore(CONNECTIONS + _FILES_AT_ONCE)  # blocks in memory that wait to be sent
        self._parts = ThreadPoolExecutor(CONNECTIONS)
        self._there: set[str] = set()

    def send(self) -> int:
        """Send what the store does not hold; return how many bytes that were."""
        self._there = {found.key for found in self._store.objects(f"{self._prefix}/")}
        with self._parts, ThreadPoolExecutor(_FILES_AT_ONCE) as files:
            sending = [files.submit(self._send_file, file) for file in self._files]
            try:
                return sum(done.result() for done in as_completed(sending))
            finally:  # after an error or an interrupt: let end what has begun, and begin nothing
                self._stopped.set()
                files.shutdown(wait=False, cancel_futures=True)

    def _send_file(self, file: ManifestFile) -> int:
        key = f"{self._prefix}/{file.path}"
        there, small = key in self._there, file.size_bytes <= PART_SIZE_BYTES
        upload = None if there or small else self._store.upload(key)
        sha256, checksum, size_bytes, block = hashlib.sha256(), 0, 0, b""
        sending: list[Future[int]] = []
        for number, block in enumerate(self._blocks(file), 1):
            if self._stopped.is_set():
                return sum(part.result() for part in sending)  # raises what stopped it, if it was of this file
            sha256.update(block)
            checksum = self._store.checksum(block, checksum)
            size_bytes += len(block)
            if upload:
                part = Part(len(block), self._store.checksum(block))
                if upload.parts.get(number) != part:
                    sending.append(self._send_part(upload, number, block, part))
                    continue
            self._progress(len(block))
        if wrong := file.differences(size_bytes, sha256.hexdigest()):
            raise PublishError(f"{self._source}/{wrong[0]}: build the repository again")
        sent_bytes = sum(part.result() for part in sending)
        if upload:
            upload.finish(-(-size_bytes // PART_SIZE_BYTES), checksum)
        elif not there:
            self._store.put_new(key, block, checksum)
            sent_bytes = size_bytes
        self._confirm(key, file, checksum)
        return sent_bytes

    def _send_part(self, upload: Upload, number: int, content: bytes, part: Part) -> Future[int]:
        assert part.checksum is not None  # noqa: S101 - it was made from the content

        def send(checksum: int) -> int:
            try:
                upload.put(number, content, checksum)
            except StoreError:
                self._stopped.set()
                raise
            finally:
                self._room.release()
            self._progress(len(content))
            return len(content)

        self._room.acquire()
        return self._parts.submit(send, part.checksum)

    def _confirm(self, key: str, file: ManifestFile, checksum: int) -> None:
        """Compare what the store holds, just sent or there before, with what was read."""
        stored = self._store.stored_checksum(key)
        if stored is None:
            sha256 = hashlib.sha256()
            for block in _stored_blocks(self._store, key, file.size_bytes, self._parts):
                sha256.update(block)
            same = sha256.hexdigest() == file.sha256
        else:
            same = stored == checksum
        if not same:
            raise StoreError(
                f"{self._store.url}/{key}: holds other bytes, and nothing is overwritten: remove it, then publish again"
            )


def _stored_blocks(store: Store, key: str, size_bytes: int, pool: ThreadPoolExecutor) -> Iterator[bytes]:
    """Read an object from start to end, a few blocks ahead."""
    fetching: deque[Future[bytes]] = deque()
    for start in range(0, size_bytes, PART_SIZE_BYTES):
        fetching.append(pool.submit(store.get_range, key, start, min(PART_SIZE_BYTES, size_bytes - start)))
        if len(fetching) > _BLOCKS_AHEAD:
            yield fetching.popleft().result()
    while fetching:
        yield fetching.popleft().result()


def _unlisted(folder: Path, manifest: Manifest) -> list[str]:
    """What shows without reading the files: those missing, those too many, and folders that no store can hold."""
    listed = {file.path for file in manifest.files}
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    files = {path for path, on_disk in found.items() if on_disk.is_file()} - {MANIFEST_NAME}
    lines = [f"{path}: missing" for path in sorted(listed - files)]
    lines += [f"{path}: not in the manifest" for path in sorted(files - listed)]
    lines += [
        f"{path}: empty, and a store has no empty folders: put a file in it"
        for path, on_disk in sorted(found.items())
        if on_disk.is_dir() and not any(on_disk.iterdir())
    ]
    own = folder / MANIFEST_NAME
    if own.exists() and own.read_bytes() != manifest.to_bytes():
        lines.append(f"{MANIFEST_NAME}: not the one of digest {manifest.digest}")
    return lines
