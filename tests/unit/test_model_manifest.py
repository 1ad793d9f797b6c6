"""The manifest: equal bytes, equal digest; any other byte, any other digest."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_repo.manifest import MANIFEST_NAME, Manifest, ManifestError, repository_prefix


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bert" / "1").mkdir(parents=True)
    (tmp_path / "bert" / "config.pbtxt").write_text('name: "bert"\n')
    (tmp_path / "bert" / "1" / "model.onnx").write_bytes(b"weights")
    return tmp_path


def manifest_of(folder: Path) -> Manifest:
    return Manifest.of_folder(folder, name="bert", variant="trt-db", precision="fp32", device="cpu", weights="hub@1")


def test_it_lists_every_file_with_its_size_and_hash(folder: Path) -> None:
    manifest = manifest_of(folder)
    assert [file.path for file in manifest.files] == ["bert/1/model.onnx", "bert/config.pbtxt"]
    assert manifest.files[0].sha256 == hashlib.sha256(b"weights").hexdigest()
    assert manifest.size_bytes == len(b"weights") + len('name: "bert"\n')


def test_it_does_not_list_itself_so_that_writing_it_leaves_the_digest(folder: Path) -> None:
    before = manifest_of(folder)
    (folder / MANIFEST_NAME).write_bytes(before.to_bytes())
    assert manifest_of(folder) == before


def test_a_manifest_file_of_a_model_is_a_file_like_any_other(folder: Path) -> None:
    (folder / "bert" / MANIFEST_NAME).write_text("{}")
    assert f"bert/{MANIFEST_NAME}" in [file.path for file in manifest_of(folder).files]


def test_the_stored_bytes_give_back_the_manifest_and_their_hash_is_the_digest(folder: Path) -> None:
    manifest = manifest_of(folder)
    stored = manifest.to_bytes()
    assert Manifest.from_bytes(stored) == manifest
    assert hashlib.sha256(stored).hexdigest() == manifest.digest
    assert stored.endswith(b"}\n")


def test_the_order_of_files_does_not_matter(folder: Path) -> None:
    manifest = manifest_of(folder)
    backwards = Manifest.model_validate({**dict(manifest), "files": manifest.files[::-1]})
    assert backwards.digest == manifest.digest


@given(content=st.binary(max_size=64))
def test_other_bytes_have_another_digest(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("folder")
    (folder / "model").write_bytes(content)
    first = manifest_of(folder)
    assert first.check_folder(folder) == []
    (folder / "model").write_bytes(content + b"!")
    assert manifest_of(folder).digest != first.digest
    assert len(first.check_folder(folder)) == 1


@pytest.mark.parametrize("field", ["name", "variant", "precision", "device", "weights"])
def test_what_it_says_of_the_model_is_part_of_the_digest(folder: Path, field: str) -> None:
    manifest = manifest_of(folder)
    assert manifest.model_copy(update={field: "other"}).digest != manifest.digest


def test_a_check_names_what_is_missing_what_is_new_and_what_has_changed(folder: Path) -> None:
    manifest = manifest_of(folder)
    (folder / "bert" / "config.pbtxt").unlink()
    (folder / "bert" / "stray").touch()
    (folder / "bert" / "1" / "model.onnx").write_bytes(b"WEIGHTS")
    missing, stray, changed = manifest.check_folder(folder)
    assert missing == "bert/config.pbtxt: missing"
    assert stray == "bert/stray: not in the manifest"
    assert changed.startswith("bert/1/model.onnx: SHA-256 ")


_SAYS = b'{"name": "m", "variant": "v", "precision": "p", "device": "cpu", "weights": "w", '


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        _SAYS + b'"files": []}',
        _SAYS + b'"files": [{"path": "a", "size_bytes": -1, "sha256": "00"}]}',
    ],
)
def test_what_is_no_manifest_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(ManifestError, match=r"^manifest\.json: .*build and publish") as caught:
        Manifest.from_bytes(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../up", "", ".", "a//b", "a\\b", "./a"])
def test_a_path_that_leaves_its_folder_is_refused(folder: Path, path: str) -> None:
    stored = manifest_of(folder).to_bytes().decode()
    hostile = stored.replace('"bert/config.pbtxt"', f'"{path}"'.replace("\\", "\\\\"))
    assert hostile != stored
    with pytest.raises(ManifestError, match="relative path"):
        Manifest.from_bytes(hostile.encode())


def test_a_path_that_is_listed_twice_is_refused(folder: Path) -> None:
    stored = manifest_of(folder).to_bytes().decode()
    with pytest.raises(ManifestError, match="twice"):
        Manifest.from_bytes(stored.replace("bert/config.pbtxt", "bert/1/model.onnx").encode())


def test_a_repository_is_stored_by_name_and_digest() -> None:
    assert repository_prefix("bert", "ab12") == "models/bert/ab12"
