"""Where published repositories are kept: a bucket of S3 or of Google Cloud Storage, as publishing sees it.

Endpoints and credentials are those of the clouds' own SDKs, from their own environment: `AWS_ENDPOINT_URL_S3`,
`AWS_PROFILE`, `STORAGE_EMULATOR_HOST`, `GOOGLE_APPLICATION_CREDENTIALS` …
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

PART_SIZE_BYTES: Final = 8 << 20
"""What is sent in one request, and held in memory for it.

S3 takes at most 10,000 parts, all but the last of 5 MiB or more
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html): files up to 78 GiB, five times a T4's memory.
"""

CONNECTIONS: Final = 4
"""Requests at a time: more do not help two cores, and each holds its part in memory, once more as a request."""


class StoreError(RuntimeError):
    """A store that cannot be reached or used, or that holds other bytes than it should."""


@dataclass(frozen=True)
class StoredObject:
    """One object of a listing."""

    key: str
    size_bytes: int
    modified: datetime


@dataclass(frozen=True)
class Part:
    """A part that a store holds of an unfinished object."""

    size_bytes: int
    checksum: int | None
    """As by ``Store.checksum``; None: the store does not say, and the part is sent again."""


@dataclass(frozen=True)
class UnfinishedUpload:
    """What an interrupted upload left behind."""

    key: str
    """The object that it was to become."""
    handle: str
    """What the store calls it."""
    started: datetime


class Upload(Protocol):
    """One object on its way into a store, in parts of ``PART_SIZE_BYTES``, the last one smaller."""

    @property
    def parts(self) -> Mapping[int, Part]:
        """What the store held of it when it was taken up, by number, the first being 1."""
        ...

    def put(self, number: int, content: bytes, checksum: int) -> None:
        """Send a part; the store refuses it if its bytes do not have the checksum."""
        ...

    def finish(self, parts: int, checksum: int) -> None:
        """Make the object of its first ``parts`` parts, unless there is one; ``checksum`` is that of the whole."""
        ...


class Store(Protocol):
    """One bucket. Its methods may be called from several threads; each raises StoreError, one line."""

    url: str
    """`s3://BUCKET` or `gs://BUCKET`."""

    def checksum(self, content: bytes, before: int = 0) -> int:
        """The checksum that this store keeps of an object: of ``content``, after what has the checksum ``before``."""
        ...

    def stored_checksum(self, key: str) -> int | None:
        """What the store says that an object's checksum is; None where it keeps none of the whole object."""
        ...

    def get(self, key: str) -> bytes | None:
        """A small object; None where there is none."""
        ...

    def get_range(self, key: str, start: int, size_bytes: int) -> bytes:
        """Bytes of an object, from ``start``."""
        ...

    def objects(self, prefix: str) -> list[StoredObject]:
        """All objects whose keys start with ``prefix``."""
        ...

    def put_new(self, key: str, content: bytes, checksum: int) -> None:
        """Create an object, unless there is one; the store refuses bytes that do not have the checksum."""
        ...

    def upload(self, key: str) -> Upload:
        """Take up the unfinished upload of an object, or begin one."""
        ...

    def unfinished(self, prefix: str) -> list[UnfinishedUpload]:
        """The unfinished uploads of objects whose keys start with ``prefix``."""
        ...

    def abort(self, upload: UnfinishedUpload) -> None:
        """Remove an unfinished upload and the parts that are stored of it."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, in this order; one that is not there is no error."""
        ...


def open_store(url: str) -> Store:
    """The store at `s3://BUCKET` or `gs://BUCKET`; nothing is asked of it yet.

    Raises:
        StoreError: ``url`` is neither, or there are no credentials.
    """
    # Bucket names: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html and
    # https://cloud.google.com/storage/docs/buckets#naming, which also allows underscores.
    match = re.fullmatch(r"(s3|gs)://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])/?", url)
    if match is None:
        raise StoreError(f'"{url}" is not a store: write s3://BUCKET or gs://BUCKET, without a path')
    # Each SDK takes half a second to import: only the one that is asked for.
    if match[1] == "s3":
        from model_repo.s3_store import S3Store  # noqa: PLC0415 - as above

        return S3Store(match[2])
    from model_repo.gcs_store import GcsStore  # noqa: PLC0415 - as above

    return GcsStore(match[2])
