"""What decides a conversion, and what is found of it again. tests/local has the conversions themselves."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from model_repo.build import NotBuilt, build, built
from model_repo.calibration import CalibrationData
from model_repo.conversion import Conversion
from model_repo.exported import SEEDED_RANDOM, ExportedModel
from model_repo.manifest import AccuracyChange, ManifestFile
from model_repo.recipe import named_recipe
from model_repo.spec import load_spec

SPEC = load_spec("bert-small")
ONNX, SEEDED_INT8 = Conversion(SPEC, "onnx"), Conversion(SPEC, "int8", CalibrationData(None))
ACCURACY = AccuracyChange(data=SEEDED_RANDOM, samples=16, max_abs_error=0.25, agreement=0.75)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no uv, so that nothing here can convert."""
    monkeypatch.setenv("TRITON_STACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("model_repo.conversion._UV", ("/bin/false",))
    return tmp_path / "cache"


def fresh(conversion: Conversion) -> Conversion:
    """The same, with no folder remembered."""
    return Conversion(conversion.spec, conversion.form, conversion.data)


def put(conversion: Conversion, *names: str, quantized_from: str | None = None) -> ExportedModel:
    """Leave behind what the conversion would: files that hold their names."""
    folder = fresh(conversion).folder
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(f"{conversion.form} {name}")
    files = tuple(ManifestFile.of(folder, folder / name) for name in names)
    accuracy = ACCURACY if quantized_from else None
    record = ExportedModel(
        weights="hub@1", parity_error=0, files=files, quantized_from=quantized_from, accuracy=accuracy
    )
    (folder / "build.json").write_text(record.model_dump_json())
    return record


def write_samples(folder: Path, value: int = 1) -> CalibrationData:
    folder.mkdir(exist_ok=True)
    arrays = {name: np.full((5, 128), value, np.int32) for name in ("input_ids", "attention_mask")}
    np.savez(folder / "0.npz", **arrays)  # pyright: ignore[reportArgumentType] - its stub takes no arrays by name
    return CalibrationData(folder)


def test_only_what_decides_the_bytes_decides_where_a_conversion_is_kept() -> None:
    described = SPEC.model_copy(update={"description": "other"})
    assert Conversion(described, "onnx").folder == fresh(ONNX).folder
    reseeded = SPEC.model_copy(update={"source": SPEC.source.model_copy(update={"seed": 1})})
    folders = {Conversion(spec, form).folder for spec in (SPEC, reseeded) for form in ("onnx", "torchscript")}
    assert len(folders) == 4


def test_other_calibration_data_is_another_conversion_and_the_same_data_elsewhere_is_not(tmp_path: Path) -> None:
    def folder(data: CalibrationData) -> Path:
        return Conversion(SPEC, "int8", data).folder

    data = write_samples(tmp_path / "here")
    assert folder(data) == folder(write_samples(tmp_path / "there"))
    assert len({folder(data), folder(write_samples(tmp_path / "other", 2)), folder(CalibrationData(None))}) == 3


@pytest.mark.parametrize(
    ("variant", "precision", "device", "form"),
    [
        ("pt-base", "fp32", "cpu", "onnx"),
        ("trt-db", "fp32", "cpu", "onnx"),
        ("trt-db", "int8", "cpu", "int8"),
        ("trt-db", "fp16", "t4", "onnx"),
        ("trt-db", "int8", "t4", "int8"),
        ("pt-db", "fp32", "t4", "torchscript"),
        ("pt-db", "fp16", "t4", "torchscript-fp16"),
    ],
)
def test_a_repository_is_made_from_the_form_that_its_backend_reads(
    variant: str, precision: str, device: str, form: str
) -> None:
    assert Conversion.of(named_recipe("bert-small", variant, precision, device)).form == form


def test_a_torchscript_repository_for_a_t4_is_built_here() -> None:
    put(Conversion(SPEC, "torchscript"), "model.pt")
    artifact = build(named_recipe("bert-small", "pt-db", device="t4"), pytest.fail)
    assert (artifact.folder / "bert-small/1/model.pt").read_text() == "torchscript model.pt"
    assert artifact.manifest.device == "t4"


def test_weights_in_a_file_of_their_own_are_part_of_the_repository() -> None:
    put(ONNX, "model.onnx", "model.onnx.data")
    artifact = build(named_recipe("bert-small", "trt-db"), pytest.fail)
    assert (artifact.folder / "bert-small/1/model.onnx.data").read_text() == "onnx model.onnx.data"
    assert "bert-small/1/model.onnx.data" in [file.path for file in artifact.manifest.files]
    (fresh(ONNX).folder / "model.onnx.data").write_text("cut")
    assert ONNX.find() is None


def test_an_int8_repository_has_a_digest_of_its_own_and_says_what_it_costs_and_that_samples_were_random() -> None:
    source = put(ONNX, "model.onnx")
    put(SEEDED_INT8, "model.onnx", quantized_from=source.sha256)
    lines: list[str] = []
    int8 = build(named_recipe("bert-small", "trt-db", "int8"), lines.append)
    assert int8.manifest.accuracy == ACCURACY
    assert int8.digest != build(named_recipe("bert-small", "trt-db"), pytest.fail).digest
    assert "CALIBRATED ON RANDOM SAMPLES" in lines[0]
    assert "75.0% of 16 samples" in lines[1]
    assert "0.25 at most" in lines[1]


def test_an_int8_model_of_another_export_is_made_again() -> None:
    put(ONNX, "model.onnx")
    put(SEEDED_INT8, "model.onnx", quantized_from=hashlib.sha256(b"an export that was").hexdigest())
    assert SEEDED_INT8.find() is None
    with pytest.raises(NotBuilt, match="model build bert-small --variant trt-db --precision int8`"):
        built(named_recipe("bert-small", "trt-db", "int8"))
