"""The build around an export: what is found, put together, repaired and refused. tests/local has the export itself."""

import hashlib
import json
from pathlib import Path

import pytest

from model_repo.build import BuildError, ModelArtifact, NotBuilt, build, built, cache_path, repositories
from model_repo.conversion import Conversion
from model_repo.engine import prepared_engine
from model_repo.exported import SEEDED_RANDOM, ExportedModel
from model_repo.manifest import MANIFEST_NAME, Manifest, ManifestFile
from model_repo.recipe import named_recipe
from model_repo.spec import ModelSpec, load_spec

SPEC = load_spec("bert-small")
TRT_DB = named_recipe("bert-small", "trt-db")
ONNX = b"the model"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no uv, so that nothing here can export."""
    monkeypatch.setenv("TRITON_STACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("model_repo.conversion._UV", ("/bin/false",))
    return tmp_path / "cache"


def put_export(spec: ModelSpec = SPEC, onnx: bytes = ONNX, weights: str = "hub@1") -> Path:
    """Leave behind what an export to ONNX would."""
    folder = Conversion(spec, "onnx").folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(onnx)
    file = ManifestFile(path="model.onnx", size_bytes=len(ONNX), sha256=hashlib.sha256(ONNX).hexdigest())
    (folder / "build.json").write_text(ExportedModel(weights=weights, parity_error=0, files=(file,)).model_dump_json())
    return folder


def build_quietly(variant: str = "trt-db") -> ModelArtifact:
    lines: list[str] = []
    artifact = build(named_recipe("bert-small", variant), lines.append)
    assert lines == []
    return artifact


def folder_of(artifact: ModelArtifact) -> Path:
    assert artifact.folder
    return artifact.folder


def test_a_repository_is_laid_out_as_triton_reads_it_with_its_manifest_beside() -> None:
    put_export()
    artifact = build_quietly()
    folder = folder_of(artifact)
    assert (folder / "bert-small" / "1" / "model.onnx").read_bytes() == ONNX
    assert 'backend: "onnxruntime"' in (folder / "bert-small" / "config.pbtxt").read_text()
    manifest = Manifest.from_bytes((folder / MANIFEST_NAME).read_bytes())
    assert manifest.check_folder(folder) == []
    assert manifest == artifact.manifest
    assert (manifest.name, manifest.variant, manifest.device) == ("bert-small", "trt-db", "cpu")
    assert folder.name == artifact.digest
    assert built(TRT_DB) == artifact


def test_building_again_changes_nothing() -> None:
    put_export()
    first = build_quietly()
    before = {path: path.stat() for path in folder_of(first).rglob("*")}
    assert build_quietly() == first
    assert {path: path.stat() for path in folder_of(first).rglob("*")} == before


def test_another_variant_is_another_digest_of_the_same_export() -> None:
    put_export()
    digests = {build_quietly(variant=name).digest for name in ("trt-base", "trt-db", "trt-ig", "trt-ig-db")}
    assert len(digests) == 4
    assert build_quietly(variant="trt-db-ig").digest in digests


def test_the_digest_does_not_depend_on_where_it_was_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_export()
    here = build_quietly()
    monkeypatch.setenv("TRITON_STACK_CACHE", str(tmp_path / "elsewhere"))
    put_export()
    there = build_quietly()
    assert folder_of(there) != folder_of(here)
    assert there.digest == here.digest


def test_an_option_of_serving_is_another_digest_of_the_same_export() -> None:
    put_export()
    plain = build_quietly()
    options: list[dict[str, object]] = [{"warmup": []}, {"response_cache": True}, {"max_queue_delay_microseconds": 100}]
    digests = {build(named_recipe("bert-small", "trt-db", serving=each), pytest.fail).digest for each in options}
    assert len(digests | {plain.digest}) == 4
    assert plain.digest in {each.digest for each in repositories()}
    assert len(repositories()) == 4


def test_an_ensemble_is_laid_out_around_the_model_and_its_made_up_vocabulary_said_out_loud(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    put_export()
    lines: list[str] = []
    recipe = named_recipe("bert-small", "trt-db", serving={"ensemble": True})
    folder = folder_of(build(recipe, lines.append))
    assert folder_of(build(recipe, lines.append)) == folder
    assert len(lines) == 2
    assert all("THE VOCABULARY IS MADE UP" in line and str(folder) in line for line in lines)
    models = ["bert-small", "bert-small-classes", "bert-small-input", "bert-small-model"]
    assert sorted(path.name for path in folder.iterdir()) == [*models, MANIFEST_NAME]
    assert (folder / "bert-small-model/1/model.onnx").read_bytes() == ONNX
    assert (folder / "bert-small/1/README").stat().st_size
    assert len((folder / "bert-small-input/1/vocab.txt").read_text().splitlines()) == 30522


def test_random_weights_are_said_out_loud_every_time_with_what_to_do() -> None:
    folder = put_export(weights=SEEDED_RANDOM)
    for _ in range(2):
        lines: list[str] = []
        assert build(TRT_DB, lines.append).manifest.weights == SEEDED_RANDOM
        assert len(lines) == 1
        assert "RANDOM" in lines[0]
        assert str(folder) in lines[0]


def test_what_is_not_built_is_answered_with_the_command_that_builds_it() -> None:
    with pytest.raises(NotBuilt, match=r"`triton-stack model build bert-small --variant trt-db`"):
        built(TRT_DB)


def test_what_a_t4_compiles_is_not_built_here() -> None:
    put_export()
    recipe = named_recipe("bert-small", "trt-db", "fp16", "t4")
    with pytest.raises(BuildError, match=r"on a T4, not here: `pulumi up` does it there"):
        build(recipe, pytest.fail)
    with pytest.raises(NotBuilt, match=r"`triton-stack model build bert-small --variant trt-db .*--device t4`"):
        prepared_engine(recipe)


@pytest.mark.parametrize("damage", ["bert-small/config.pbtxt", "bert-small/1/model.onnx", MANIFEST_NAME, ""])
def test_a_repository_that_has_lost_a_file_is_put_together_again(damage: str) -> None:
    put_export()
    folder = folder_of(build_quietly())
    for path in [folder / damage] if damage else sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with pytest.raises(NotBuilt):
        built(TRT_DB)
    folder = folder_of(build_quietly())
    assert Manifest.from_bytes((folder / MANIFEST_NAME).read_bytes()).check_folder(folder) == []


def test_an_export_of_other_bytes_than_its_record_says_never_becomes_a_repository(cache: Path) -> None:
    folder = put_export(onnx=ONNX[::-1])
    with pytest.raises(BuildError, match="is damaged; remove it") as caught:
        build_quietly()
    assert str(folder) in str(caught.value)
    assert list((cache / "repositories").iterdir()) == []


def test_an_export_that_was_cut_short_or_has_no_readable_record_is_exported_again() -> None:
    folder = put_export(onnx=ONNX[:3])
    with pytest.raises(BuildError, match=r"^install failed with exit status 1"):
        build(TRT_DB, lambda _: None)
    put_export()
    (folder / "build.json").write_text("{}")
    with pytest.raises(BuildError, match=r"^install failed with exit status 1"):
        build(TRT_DB, lambda _: None)


def test_a_cache_that_cannot_be_written_is_told_with_the_setting_that_moves_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_STACK_CACHE", str(tmp_path / "file"))
    with pytest.raises(BuildError, match="set TRITON_STACK_CACHE"):
        build(TRT_DB, lambda _: None)


def test_a_failed_step_is_told_by_its_last_line_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho noise >&2\necho 'error: no space left' >&2\necho >&2\nexit 2\n")
    uv.chmod(0o755)
    monkeypatch.setattr("model_repo.conversion._UV", (str(uv),))
    with pytest.raises(
        BuildError, match=r"^install failed with exit status 2: error: no space left \(all of it: (.*)\)$"
    ):
        build(TRT_DB, lambda _: None)
    assert "noise" in (cache / "logs" / "install.log").read_text()
    assert not Conversion(SPEC, "onnx").folder.exists()


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert cache_path() == cache
    monkeypatch.delenv("TRITON_STACK_CACHE")
    assert cache_path().name == "triton-stack"


def test_the_manifest_on_disk_is_in_canonical_form() -> None:
    put_export()
    stored = (folder_of(build_quietly()) / MANIFEST_NAME).read_bytes()
    assert stored == (json.dumps(json.loads(stored), sort_keys=True, indent=2) + "\n").encode()
