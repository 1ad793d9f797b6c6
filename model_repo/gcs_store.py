"""A bucket of Google Cloud Storage."""

import base64
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, Final

import google_crc32c
import requests
from google.api_core.exceptions import GoogleAPIError, NotFound, PreconditionFailed
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage

from model_repo.store import Part, StoredObject, StoreError, UnfinishedUpload

_crc32c: Callable[[int, bytes], int] = getattr(google_crc32c, "extend")  # noqa: B009 - untyped

_PARTS: Final = "uploads"
"""Prefix of the parts of unfinished uploads: outside `models/`, so that no reader of a repository sees them."""

_MOST_COMPOSED: Final = 32
"""Sources of one compose request (https://docs.cloud.google.com/storage/docs/composite-objects)."""


class GcsStore:
    """A bucket of Google Cloud Storage.

    A large object is a parallel composite upload
    (https://docs.cloud.google.com/storage/docs/parallel-composite-uploads): its parts are objects under `uploads/`,
    composed into it under the condition that it does not exist yet, then deleted. So an interrupted upload is in the
    bucket, and any machine can continue it; the address of a resumable upload would be known to one machine only, and
    takes bytes over one connection. Cloud Storage verifies the CRC32C of each part and keeps that of every object.

    Args:
        bucket: its name.
    """

    def __init__(self, bucket: str) -> None:
        self.url = f"gs://{bucket}"
        with self._errors():
            client: Any = storage.Client()  # untyped
            self._bucket = client.bucket(bucket)

    def checksum(self, content: bytes, before: int = 0) -> int:
        """CRC32C."""
        return _crc32c(before, content)

    def stored_checksum(self, key: str) -> int | None:
        """The object's CRC32C: every object has one."""
        blob = self._bucket.blob(key)
        with self._errors(key):
            blob.reload()
        return _decoded(blob.crc32c)

    def get(self, key: str) -> bytes | None:
        """A small object; None where there is none."""
        with self._errors(key):
            try:
                return self._bucket.blob(key).download_as_bytes()
            except NotFound:
                return None

    def get_range(self, key: str, start: int, size_bytes: int) -> bytes:
        """Bytes of an object, from ``start``."""
        with self._errors(key):
            return self._bucket.blob(key).download_as_bytes(start=start, end=start + size_bytes - 1, checksum=None)

    def objects(self, prefix: str) -> list[StoredObject]:
        """All objects whose keys start with ``prefix``."""
        return [StoredObject(blob.name, blob.size, blob.updated) for blob in self._blobs(prefix)]

    def put_new(self, key: str, content: bytes, checksum: int) -> None:
        """Create an object, unless there is one."""
        self._put(key, content, checksum, if_generation_match=0)

    def upload(self, key: str) -> "_GcsUpload":
        """Take up the parts that are stored of an object."""
        folder = f"{_PARTS}/{key}/"
        held = {
            int(blob.name.removeprefix(folder)): Part(blob.size, _decoded(blob.crc32c)) for blob in self._blobs(folder)
        }
        return _GcsUpload(self, key, held)

    def unfinished(self, prefix: str) -> list[UnfinishedUpload]:
        """The parts of objects whose keys start with ``prefix``, each as one upload."""
        return [
            UnfinishedUpload(blob.name.removeprefix(f"{_PARTS}/").rpartition("/")[0], blob.name, blob.updated)
            for blob in self._blobs(f"{_PARTS}/{prefix}")
        ]

    def abort(self, upload: UnfinishedUpload) -> None:
        """Delete a part."""
        self.delete([upload.handle])

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, in this order. A versioned bucket keeps them as old versions until its lifecycle rule."""
        for key in keys:
            with self._errors(key):
                try:
                    self._bucket.blob(key).delete()
                except NotFound:
                    continue

    def put_part(self, key: str, number: int, content: bytes, checksum: int) -> None:
        """Store a part of an object, in place of one that is there."""
        self._put(_part_key(key, number), content, checksum)

    def compose(self, key: str, parts: int) -> None:
        """Make an object of its parts, unless there is one, and delete them."""
        names = [_part_key(key, number) for number in range(1, parts + 1)]
        sources = names
        with self._errors(key):
            try:
                while len(sources) > _MOST_COMPOSED:
                    groups = [sources[i : i + _MOST_COMPOSED] for i in range(0, len(sources), _MOST_COMPOSED)]
                    sources = [self._compose(f"{group[0]}-{len(group)}", group) for group in groups]
                    names = [*names, *sources]
                self._compose(key, sources, if_generation_match=0)
            except (PreconditionFailed, NotFound):  # another process has made the object, or has deleted the parts
                pass
        self.delete(names)

    def _compose(self, key: str, sources: list[str], **condition: int) -> str:
        self._bucket.blob(key).compose([self._bucket.blob(source) for source in sources], **condition)
        return key

    def _put(self, key: str, content: bytes, checksum: int, **condition: int) -> None:
        blob = self._bucket.blob(key)
        blob.crc32c = base64.b64encode(checksum.to_bytes(4, "big")).decode()
        with self._errors(key):
            try:
                blob.upload_from_string(content, "application/octet-stream", checksum=None, **condition)
            except PreconditionFailed:
                return

    def _blobs(self, prefix: str) -> list[Any]:
        with self._errors():
            return list(self._bucket.list_blobs(prefix=prefix))

    @contextmanager
    def _errors(self, key: str = "") -> Generator[None]:
        """Put what the SDK raises in one line."""
        try:
            yield
        except (GoogleAPIError, GoogleAuthError, OSError, requests.RequestException) as error:
            where = f"{self.url}/{key}".rstrip("/")
            raise StoreError(f"{where}: {' '.join(str(error).split())}") from error


class _GcsUpload:
    """The parts of one object."""

    def __init__(self, store: GcsStore, key: str, parts: dict[int, Part]) -> None:
        self._store = store
        self._key = key
        self._parts = parts

    @property
    def parts(self) -> dict[int, Part]:
        """What is stored of it."""
        return self._parts

    def put(self, number: int, content: bytes, checksum: int) -> None:
        """Send a part, in place of one that is there."""
        self._store.put_part(self._key, number, content, checksum)

    def finish(self, parts: int, checksum: int) -> None:  # noqa: ARG002 - parts were verified; publishing compares it
        """Make the object, unless there is one."""
        self._store.compose(self._key, parts)


def _part_key(key: str, number: int) -> str:
    return f"{_PARTS}/{key}/{number:05}"


def _decoded(crc32c: str) -> int:
    return int.from_bytes(base64.b64decode(crc32c), "big")
