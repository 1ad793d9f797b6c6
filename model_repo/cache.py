"""The folder that outlives checkouts: exports and repositories, each made once a machine."""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock


class BuildError(RuntimeError):
    """Something that could not be built on this machine."""


def cache_path() -> Path:
    """Where it is: ``TRITON_STACK_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("TRITON_STACK_CACHE") or platformdirs.user_cache_path("triton-stack"))


@contextmanager
def cache_to_write() -> Generator[None]:
    """Keep other processes out of the cache while the block adds to it; blocks may nest.

    Raises:
        BuildError: the cache cannot be written.
    """
    try:
        cache_path().mkdir(parents=True, exist_ok=True)
        with FileLock(cache_path() / "model_repo.lock", is_singleton=True):
            yield
    except OSError as error:
        raise BuildError(f"{cache_path()}: {error}; make room there, or set TRITON_STACK_CACHE") from error


@contextmanager
def folder_in_making(target: Path) -> Generator[Path]:
    """A folder that takes the place of ``target`` once the block has filled it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        yield folder
        if target.exists():
            target.rename(Path(temporary) / "old")
        folder.rename(target)


def has_size(path: Path, size_bytes: int) -> bool:
    """What a file cut short fails at once, and a changed one where it is served: there its digest is checked."""
    return path.is_file() and path.stat().st_size == size_bytes
