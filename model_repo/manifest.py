"""The manifest of a model repository: the list of its files, whose digest is the repository's name.

Two repositories with the same digest hold the same bytes, wherever they are stored.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

MANIFEST_NAME = "manifest.json"
"""The file, beside the model folders, that holds the manifest. It does not list itself."""

_VALUE = ConfigDict(frozen=True, extra="forbid")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in hex, 64 characters."""


class ManifestError(ValueError):
    """A manifest that cannot be read."""


class ManifestFile(BaseModel):
    """One file: its path inside the repository, its size in bytes and its SHA-256 in hex."""

    model_config = _VALUE

    path: str
    size_bytes: int = Field(ge=0)
    sha256: Sha256

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        """A manifest comes from a bucket: a path that leaves its folder would overwrite a reader's own files."""
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\\" in path or str(PurePosixPath(path)) != path:
            raise ValueError("must be a plain relative path with forward slashes")
        return path

    @classmethod
    def of(cls, folder: Path, path: Path) -> Self:
        """Read the file ``path``, which lies inside ``folder``."""
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(path=path.relative_to(folder).as_posix(), size_bytes=path.stat().st_size, sha256=sha256)

    def differences(self, size_bytes: int, sha256: str) -> list[str]:
        """Compare with what was read of the file: a line when it is another, none when it is the same."""
        if (size_bytes, sha256) == (self.size_bytes, self.sha256):
            return []
        return [
            f"{self.path}: SHA-256 {sha256} ({size_bytes} bytes), "
            f"the manifest says {self.sha256} ({self.size_bytes} bytes)"
        ]


class AccuracyChange(BaseModel):
    """What a lower precision costs: its answers beside those of FP32, on samples that calibration did not see."""

    model_config = _VALUE

    data: str
    """What the samples are of: the digest of a folder, or `seeded-random` when they are like no real ones."""
    samples: int = Field(ge=1)
    max_abs_error: float = Field(ge=0)
    """The largest absolute difference of an output."""
    agreement: float = Field(ge=0, le=1)
    """The share of samples whose highest score is of the same class."""

    def __str__(self) -> str:
        """In one line, for people."""
        return (
            f"{self.agreement:.1%} of {self.samples} samples that calibration did not see keep their highest score; "
            f"an output differs by {self.max_abs_error:.2g} at most"
        )


class Engine(BaseModel):
    """A compiled TensorRT engine: what it was built from, where, and how far its answers are from the ONNX file's."""

    model_config = _VALUE

    key: Sha256
    """The build key: equal keys are never built twice."""
    onnx_sha256: Sha256
    triton_release: str
    tensorrt: str
    """Its version, such as `10.13.3.9`: an engine runs on no other."""
    compute_capability: str
    """That of the GPU, such as `7.5`, a T4."""
    driver: str
    """The NVIDIA driver under which it was built."""
    command: tuple[str, ...]
    """The `trtexec` line."""
    max_abs_error: float = Field(ge=0)
    """The largest absolute difference of an output from the ONNX file's, on a sample."""


class Manifest(BaseModel):
    """What a model repository holds: what it was made of, and its files in order of their paths."""

    model_config = _VALUE

    name: str
    variant: str
    precision: str
    device: str
    weights: str
    """Where the weights are from: a name and its revision, or `seeded-random` when they mean nothing."""
    accuracy: AccuracyChange | None = None
    """None: nothing was quantised."""
    engine: Engine | None = None
    """None: nothing was compiled."""
    files: tuple[ManifestFile, ...] = Field(min_length=1)

    @field_validator("files")
    @classmethod
    def _sorted(cls, files: tuple[ManifestFile, ...]) -> tuple[ManifestFile, ...]:
        if len({file.path for file in files}) < len(files):
            raise ValueError("lists a path twice")
        return tuple(sorted(files, key=lambda file: file.path))

    @classmethod
    def of_folder(cls, folder: Path, *, name: str, variant: str, precision: str, device: str, weights: str) -> Self:
        """List every file under ``folder``, except its manifest."""
        files = _hashed(folder, _paths(folder))
        return cls(name=name, variant=variant, precision=precision, device=device, weights=weights, files=files)

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read a stored manifest.

        Raises:
            ManifestError: ``content`` is not a manifest.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ManifestError(
                f"{MANIFEST_NAME}: {where}: {first['msg']}: build and publish the repository again"
            ) from error

    def to_bytes(self) -> bytes:
        """The canonical form: equal manifests have equal bytes."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), sort_keys=True, indent=2).encode() + b"\n"

    @property
    def digest(self) -> str:
        """The SHA-256 of the canonical form in hex, 64 characters."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.size_bytes for file in self.files)

    def check_folder(self, folder: Path) -> list[str]:
        """Compare ``folder`` with this manifest: one line a difference, none when the bytes are the same."""
        expected = {file.path: file for file in self.files}
        found = {path.relative_to(folder).as_posix(): path for path in _paths(folder)}
        lines = [f"{path}: missing" for path in sorted(expected.keys() - found.keys())]
        lines += [f"{path}: not in the manifest" for path in sorted(found.keys() - expected.keys())]
        for actual in _hashed(folder, [found[path] for path in sorted(expected.keys() & found.keys())]):
            lines += expected[actual.path].differences(actual.size_bytes, actual.sha256)
        return lines


def repository_prefix(name: str, digest: str) -> str:
    """Where a repository is stored in a bucket, with no slash at either end."""
    return f"models/{name}/{digest}"


def _hashed(folder: Path, paths: list[Path]) -> tuple[ManifestFile, ...]:
    """Read files in parallel: hashing does not hold the interpreter's lock. The largest one bounds the time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return tuple(pool.map(partial(ManifestFile.of, folder), paths))


def _paths(folder: Path) -> list[Path]:
    own = folder / MANIFEST_NAME
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != own)
