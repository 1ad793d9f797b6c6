"""The archive for SageMaker: reproducible, and only ever whole."""

import os
import tarfile
from pathlib import Path

import pytest

from model_repo.archive import ArchiveError, write_archive
from model_repo.manifest import MANIFEST_NAME, Manifest

FILES = {"b/config.pbtxt": b"name: 'b'", "b/1/model.onnx": bytes(range(256)) * 999, "a/1/model.py": b""}


def write_repository(folder: Path) -> Manifest:
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return Manifest.of_folder(folder, name="b", variant="v", precision="fp32", device="cpu", weights="none")


def test_it_unpacks_to_the_repository(tmp_path: Path) -> None:
    manifest = write_repository(tmp_path / "repository")
    write_archive(tmp_path / "repository", manifest, tmp_path / "model.tar.gz")
    with tarfile.open(tmp_path / "model.tar.gz") as tar:
        assert tar.getnames() == [MANIFEST_NAME, *sorted(FILES)]
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert manifest.check_folder(tmp_path / "unpacked") == []
    assert (tmp_path / "unpacked" / MANIFEST_NAME).read_bytes() == manifest.to_bytes()


def test_the_same_repository_makes_the_same_bytes_whatever_its_times_and_modes(tmp_path: Path) -> None:
    for name, age, mode in (("one", 1_000_000_000, 0o600), ("two", 1_500_000_000, 0o755)):
        manifest = write_repository(tmp_path / name)
        for path in FILES:
            os.utime(tmp_path / name / path, (age, age))
            (tmp_path / name / path).chmod(mode)
        write_archive(tmp_path / name, manifest, tmp_path / f"{name}.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (FILES["b/1/model.onnx"][:-1] + b"\0", "SHA-256"),
        (FILES["b/1/model.onnx"][:-1], "255743 bytes, the manifest says 255744"),
        (FILES["b/1/model.onnx"] + b"more", "255748 bytes, the manifest says 255744"),
        (None, "No such file"),
    ],
)
def test_what_is_not_as_the_manifest_says_makes_no_archive(tmp_path: Path, content: bytes | None, reason: str) -> None:
    manifest = write_repository(tmp_path / "repository")
    weights = tmp_path / "repository/b/1/model.onnx"
    weights.unlink()
    if content is not None:
        weights.write_bytes(content)
    (tmp_path / "model.tar.gz").write_bytes(b"the one before")
    with pytest.raises(ArchiveError, match=rf"b/1/model\.onnx: .*{reason}") as caught:
        write_archive(tmp_path / "repository", manifest, tmp_path / "model.tar.gz")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "model.tar.gz").read_bytes() == b"the one before"
    assert {path.name for path in tmp_path.iterdir()} == {"repository", "model.tar.gz"}
