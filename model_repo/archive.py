"""A repository as one `model.tar.gz`, which is what SageMaker's `ModelDataUrl` takes.

By default nothing needs it: an endpoint reads the published prefix as it is, with nothing to unpack at its start
(https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_S3ModelDataSource.html).
"""

import gzip
import hashlib
import io
import os
import tarfile
import tempfile
from pathlib import Path
from typing import BinaryIO, Final

from model_repo.manifest import MANIFEST_NAME, Manifest

_FILE_MODE: Final = 0o644
_STORED: Final = 0
"""gzip's level: weights hardly compress, and trying costs ten times the rest."""

_AGAIN: Final = "build the repository again"


class ArchiveError(RuntimeError):
    """An archive that cannot be made."""


def write_archive(folder: Path, manifest: Manifest, archive: Path) -> None:
    """Write the archive: the folders of the models at its root, as Triton finds them once it is unpacked.

    It is reproducible: sorted, and with no time, owner or mode of this machine. It is written beside its place and
    moved there, so that what has its name is whole.

    Args:
        folder: the repository.
        manifest: its manifest, with which every byte is compared.
        archive: the file, replaced if it is there.

    Raises:
        ArchiveError: a file is missing or is not what ``manifest`` says, or ``archive`` cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".") as scratch:
            made = Path(scratch) / archive.name
            with made.open("wb") as target, gzip.GzipFile("", "wb", _STORED, target, mtime=0) as zipped:
                _write_tar(folder, manifest, zipped)
            made.replace(archive)
    except OSError as error:
        raise ArchiveError(f"{error.filename or archive}: {error.strerror}") from error


def _write_tar(folder: Path, manifest: Manifest, target: gzip.GzipFile) -> None:
    own = manifest.to_bytes()
    # GNU's format: pax would write a header more a file, ustar has no files of 8 GiB and more.
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(_entry(MANIFEST_NAME, len(own)), io.BytesIO(own))
        for file in manifest.files:
            with (folder / file.path).open("rb") as source:
                if (actual := os.fstat(source.fileno()).st_size) != file.size_bytes:
                    raise ArchiveError(f"{source.name}: {actual} bytes, the manifest says {file.size_bytes}: {_AGAIN}")
                hashed = _Hashed(source)
                tar.addfile(_entry(file.path, file.size_bytes), hashed)
            if wrong := file.differences(file.size_bytes, hashed.sha256.hexdigest()):
                raise ArchiveError(f"{folder}/{wrong[0]}: {_AGAIN}")


def _entry(path: str, size_bytes: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)  # its time and owner are 0
    entry.size, entry.mode = size_bytes, _FILE_MODE
    return entry


class _Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.sha256.update(content)
        return content
