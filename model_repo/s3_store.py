"""A bucket of S3."""

import base64
import zlib
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from model_repo.store import CONNECTIONS, Part, StoredObject, StoreError, UnfinishedUpload

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef

_CONFIG: Final = Config(
    max_pool_connections=2 * CONNECTIONS,
    retries={"mode": "standard", "total_max_attempts": 4},
    # Every upload names its CRC32, which S3 checks: the SDK need neither hash the bytes again nor sign them.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    s3={"payload_signing_enabled": False},
)

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html: 412, the key exists; 409, another
# request is writing it. An upload that another process has finished is gone.
_EXISTS: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchUpload"})
_MISSING: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_HINTS: Final = {
    "NoSuchBucket": "; name another, or make it: `pulumi up` does",
    "AccessDenied": "; use credentials that may read and write it",
    "403": "; use credentials that may read and write it",
}


class S3Store:
    """A bucket of S3, or of what speaks its protocol.

    Objects are created by conditional writes, with a CRC32 of the whole object that S3 verifies and keeps
    (https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html). An interrupted upload
    is in the bucket, as an unfinished multipart upload: any machine can continue it.

    Args:
        bucket: its name.
    """

    def __init__(self, bucket: str) -> None:
        self.url = f"s3://{bucket}"
        self._bucket = bucket
        with _errors(self.url):
            session: Any = boto3.Session()  # its types are those of a few services
            self._client: S3Client = session.client("s3", config=_CONFIG)

    def checksum(self, content: bytes, before: int = 0) -> int:
        """CRC32."""
        return zlib.crc32(content, before)

    def stored_checksum(self, key: str) -> int | None:
        """The object's CRC32, if it has one of the whole object: other programs may have left another, or none."""
        with _errors(f"{self.url}/{key}"):
            head = self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
        # Not `head["ChecksumCRC32"]`: type and checksum come apart, as with the SDKs' default, CRC64NVME.
        crc32 = head.get("ChecksumCRC32") if head.get("ChecksumType") == "FULL_OBJECT" else None
        return _decoded(crc32) if crc32 else None

    def get(self, key: str) -> bytes | None:
        """A small object; None where there is none."""
        with _errors(f"{self.url}/{key}"):
            try:
                return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
            except ClientError as error:
                if _code(error) in _MISSING | {"NoSuchBucket"}:
                    return None
                raise

    def get_range(self, key: str, start: int, size_bytes: int) -> bytes:
        """Bytes of an object, from ``start``."""
        with _errors(f"{self.url}/{key}"):
            byte_range = f"bytes={start}-{start + size_bytes - 1}"
            return self._client.get_object(Bucket=self._bucket, Key=key, Range=byte_range)["Body"].read()

    def objects(self, prefix: str) -> list[StoredObject]:
        """All objects whose keys start with ``prefix``."""
        with _errors(self.url):
            pages: Any = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            return [
                StoredObject(found["Key"], found["Size"], found["LastModified"])
                for page in pages
                for found in page.get("Contents", [])
            ]

    def put_new(self, key: str, content: bytes, checksum: int) -> None:
        """Create an object, unless there is one."""
        with _errors(f"{self.url}/{key}"), _unless_there():
            self._client.put_object(
                Bucket=self._bucket, Key=key, Body=content, IfNoneMatch="*", ChecksumCRC32=_encoded(checksum)
            )

    def upload(self, key: str) -> "_S3Upload":
        """Take up the multipart upload of an object, the oldest where there are several, or begin one."""
        found = sorted((upload for upload in self.unfinished(key) if upload.key == key), key=lambda u: u.started)
        with _errors(f"{self.url}/{key}"):
            if found:
                return _S3Upload(self._client, self._bucket, key, found[0].handle)
            begun = self._client.create_multipart_upload(
                Bucket=self._bucket, Key=key, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT"
            )
            return _S3Upload(self._client, self._bucket, key, begun["UploadId"])

    def unfinished(self, prefix: str) -> list[UnfinishedUpload]:
        """The multipart uploads under way of objects whose keys start with ``prefix``."""
        with _errors(self.url):
            pages: Any = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=prefix
            )
            return [
                UnfinishedUpload(found["Key"], found["UploadId"], found["Initiated"])
                for page in pages
                for found in page.get("Uploads", [])
            ]

    def abort(self, upload: UnfinishedUpload) -> None:
        """Abort a multipart upload, which removes its parts."""
        with _errors(f"{self.url}/{upload.key}"), _unless_there():
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=upload.key, UploadId=upload.handle)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, in this order. A versioned bucket keeps them as old versions until its lifecycle rule."""
        for key in keys:
            with _errors(f"{self.url}/{key}"):
                self._client.delete_object(Bucket=self._bucket, Key=key)


class _S3Upload:
    """A multipart upload."""

    def __init__(self, client: "S3Client", bucket: str, key: str, upload_id: str) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key
        self._id = upload_id
        self._completed: dict[int, CompletedPartTypeDef] = {}
        self._parts: dict[int, Part] = {}
        pages: Any = client.get_paginator("list_parts").paginate(Bucket=bucket, Key=key, UploadId=upload_id)
        for part in (part for page in pages for part in page.get("Parts", [])):
            number, crc32 = part["PartNumber"], part.get("ChecksumCRC32")
            self._parts[number] = Part(part["Size"], _decoded(crc32) if crc32 else None)
            self._note(number, part["ETag"], crc32)

    @property
    def parts(self) -> dict[int, Part]:
        """What S3 held of it when it was taken up."""
        return self._parts

    def put(self, number: int, content: bytes, checksum: int) -> None:
        """Send a part, in place of one that is there."""
        crc32 = _encoded(checksum)
        with self._errors():
            answer = self._client.upload_part(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._id,
                PartNumber=number,
                Body=content,
                ChecksumCRC32=crc32,
            )
        self._note(number, answer["ETag"], crc32)

    def finish(self, parts: int, checksum: int) -> None:
        """Make the object, unless there is one."""
        completed = [self._completed[number] for number in range(1, parts + 1)]
        with self._errors():
            try:
                self._client.complete_multipart_upload(
                    Bucket=self._bucket,
                    Key=self._key,
                    UploadId=self._id,
                    MultipartUpload={"Parts": completed},
                    IfNoneMatch="*",
                    ChecksumType="FULL_OBJECT",
                    ChecksumCRC32=_encoded(checksum),
                )
            except ClientError as error:
                if _code(error) not in _EXISTS:
                    raise
                with _unless_there():
                    self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._key, UploadId=self._id)

    def _note(self, number: int, etag: str, crc32: str | None) -> None:
        part: CompletedPartTypeDef = {"PartNumber": number, "ETag": etag}
        if crc32:
            part["ChecksumCRC32"] = crc32
        self._completed[number] = part

    def _errors(self) -> AbstractContextManager[None]:
        return _errors(f"s3://{self._bucket}/{self._key}")


@contextmanager
def _errors(where: str) -> Generator[None]:
    """Put what the SDK raises in one line."""
    try:
        yield
    except ClientError as error:
        code = _code(error)
        message = error.response.get("Error", {}).get("Message", "")
        raise StoreError(f"{where}: {code}: {message}{_HINTS.get(code, '')}") from error
    except BotoCoreError as error:
        raise StoreError(f"{where}: {' '.join(str(error).split())}") from error


@contextmanager
def _unless_there() -> Generator[None]:
    """Let pass what says that another has done it already."""
    try:
        yield
    except ClientError as error:
        if _code(error) not in _EXISTS:
            raise


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "error")


def _encoded(crc32: int) -> str:
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()


def _decoded(crc32: str) -> int:
    return int.from_bytes(base64.b64decode(crc32), "big")
