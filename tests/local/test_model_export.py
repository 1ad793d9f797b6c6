"""The real conversions, by PyTorch and onnxruntime: the bytes, the answers, and what a second build costs.

The models are built in the user's cache, where they stay: the first run takes minutes, and 5.5 GB for PyTorch.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest

from localcloud.pod import free_port
from localcloud.triton import Triton, install
from model_repo.build import BuildError, ModelArtifact, build, built
from model_repo.cache import cache_path
from model_repo.calibration import CalibrationData
from model_repo.conversion import Conversion
from model_repo.engine import prepare_engine, prepared_engine
from model_repo.exported import ExportedModel, Form
from model_repo.manifest import MANIFEST_NAME, Manifest
from model_repo.recipe import named_recipe
from model_repo.sample import reference_outputs, sample_inputs
from model_repo.spec import MODELS, load_spec

ROOT = Path(__file__).parents[2]
NAMES = ["bert-small", "resnet50"]
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=NAMES)
def artifact(request: pytest.FixtureRequest) -> ModelArtifact:
    return build(named_recipe(request.param, "trt-db"), print)


def onnx_file(artifact: ModelArtifact) -> Path:
    assert artifact.folder
    return artifact.folder / artifact.name / "1" / "model.onnx"


def test_the_repository_holds_what_its_manifest_and_digest_say(artifact: ModelArtifact) -> None:
    assert artifact.folder
    manifest = Manifest.from_bytes((artifact.folder / MANIFEST_NAME).read_bytes())
    assert manifest.check_folder(artifact.folder) == []
    assert manifest.digest == artifact.digest


def test_a_second_build_does_nothing(artifact: ModelArtifact) -> None:
    before = onnx_file(artifact).stat()
    assert build(named_recipe(artifact.name, "trt-db"), print) == artifact
    assert built(named_recipe(artifact.name, "trt-db")) == artifact
    assert onnx_file(artifact).stat() == before


def test_the_export_answered_as_pytorch_does(artifact: ModelArtifact) -> None:
    record = json.loads((Conversion(load_spec(artifact.name), "onnx").folder / "build.json").read_text())
    assert 0 < record["parity_error"] <= TOLERANCE
    assert record["weights"] == artifact.manifest.weights


def test_the_onnx_file_has_the_specs_interface_with_the_batch_left_open(artifact: ModelArtifact) -> None:
    spec = load_spec(artifact.name)
    # Its own annotations leave the types open.
    session = cast("Any", onnxruntime.InferenceSession(str(onnx_file(artifact)), providers=["CPUExecutionProvider"]))
    for tensors, nodes in ((spec.inputs, session.get_inputs()), (spec.outputs, session.get_outputs())):
        assert [(node.name, node.shape) for node in nodes] == [
            (tensor.name, ["batch", *tensor.dims]) for tensor in tensors
        ]


def test_a_sample_is_answered_the_same_alone_and_in_a_full_batch(artifact: ModelArtifact) -> None:
    spec = load_spec(artifact.name)
    batch = sample_inputs(spec, spec.max_batch_size)
    together = reference_outputs(onnx_file(artifact), batch)["logits"]
    assert together.shape == (spec.max_batch_size, *spec.outputs[0].dims)
    for row in (0, spec.max_batch_size - 1):
        single = {name: values[row : row + 1] for name, values in batch.items()}
        alone = reference_outputs(onnx_file(artifact), single)["logits"]
        assert np.abs(alone[0] - together[row]).max() < TOLERANCE
    # Samples differ by far more than the tolerance, so that a wrong answer could not pass for a right one.
    assert together.std(axis=0).max() > 100 * TOLERANCE


def test_padding_does_not_change_the_answer_and_text_does() -> None:
    artifact = build(named_recipe("bert-small", "trt-db"), print)
    inputs = sample_inputs(load_spec("bert-small"), 4)
    outputs = reference_outputs(onnx_file(artifact), inputs)["logits"]
    mask = inputs["attention_mask"]
    other = np.roll(inputs["input_ids"], 1, axis=0)
    padding = reference_outputs(onnx_file(artifact), inputs | {"input_ids": np.where(mask, inputs["input_ids"], other)})
    text = reference_outputs(onnx_file(artifact), inputs | {"input_ids": np.where(mask, other, inputs["input_ids"])})
    assert np.abs(padding["logits"] - outputs).max() < TOLERANCE
    assert np.abs(text["logits"] - outputs).max() > 10 * TOLERANCE


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the export's Python in the checkout."""
    build(named_recipe("bert-small", "trt-db"), print)  # for its environment
    python = cache_path() / "export-environment" / "bin" / "python"
    return subprocess.run([str(python), *arguments], cwd=ROOT, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_the_same_spec_exports_to_the_same_bytes_that_name_no_file_of_this_machine(form: Form, tmp_path: Path) -> None:
    conversion = Conversion(load_spec("bert-small"), form)
    [file] = conversion.make(print).files
    run_python("-m", "model_repo.export", str(MODELS / "bert-small.yaml"), str(tmp_path), form).check_returncode()
    again = (tmp_path / file.path).read_bytes()
    assert again == (conversion.folder / file.path).read_bytes()
    assert str(ROOT).encode() not in again
    assert b"site-packages" not in again


def test_torchscript_answers_as_onnx_does_for_any_batch(tmp_path: Path) -> None:
    spec = load_spec("bert-small")
    artifact = build(named_recipe("bert-small", "pt-db", device="t4"), print)
    inputs = sample_inputs(spec, 5, seed=7)
    np.savez(tmp_path / "inputs.npz", **inputs)  # pyright: ignore[reportArgumentType] - its stub takes no arrays by name
    program = (
        "import sys, numpy, torch\n"
        "model, inputs = torch.jit.load(sys.argv[1]), numpy.load(sys.argv[2])\n"
        "with torch.inference_mode():\n"
        "    numpy.save(sys.argv[3], model(**{name: torch.from_numpy(inputs[name]) for name in inputs}).numpy())\n"
    )
    files = (artifact.folder / "bert-small/1/model.pt", tmp_path / "inputs.npz", tmp_path / "outputs.npy")
    run_python("-c", program, *map(str, files)).check_returncode()
    onnx = build(named_recipe("bert-small", "trt-db"), print)
    expected = reference_outputs(onnx_file(onnx), inputs)["logits"]
    assert np.abs(np.load(files[2]) - expected).max() < TOLERANCE


def test_weights_too_large_for_one_file_lie_beside_it_and_answer_the_same(tmp_path: Path) -> None:
    # The limit is 2 GiB; a lower one puts a small model's weights out in the same way.
    program = "import sys, model_repo.export as e; e.ONE_FILE_BYTES = 1_000_000; e.main(*sys.argv[1:])"
    run_python("-c", program, str(MODELS / "bert-small.yaml"), str(tmp_path), "onnx").check_returncode()
    record = ExportedModel.model_validate_json((tmp_path / "build.json").read_bytes())
    graph, weights = record.files
    assert (graph.path, weights.path) == ("model.onnx", "model.onnx.data")
    assert graph.size_bytes < 1_000_000 < weights.size_bytes
    assert weights.sha256.encode() in (tmp_path / "model.onnx").read_bytes()
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in record.files:
        (tmp_path / file.path).rename(moved / file.path)
    inputs = sample_inputs(load_spec("bert-small"), 3)
    whole = build(named_recipe("bert-small", "trt-db"), print)
    expected = reference_outputs(onnx_file(whole), inputs)["logits"]
    np.testing.assert_array_equal(reference_outputs(moved / "model.onnx", inputs)["logits"], expected)


def test_int8_says_what_it_costs_and_is_as_far_from_fp32_as_it_says() -> None:
    spec = load_spec("bert-small")
    int8, fp32 = (build(named_recipe("bert-small", "trt-db", precision), print) for precision in ("int8", "fp32"))
    accuracy = Manifest.from_bytes((int8.folder / MANIFEST_NAME).read_bytes()).accuracy
    assert accuracy
    assert int8.digest != fp32.digest
    assert int8.manifest.size_bytes < 0.85 * fp32.manifest.size_bytes  # the embeddings, most of it, stay FP32
    _, held_out = CalibrationData(None).split(spec)
    answers, expected = (reference_outputs(onnx_file(artifact), held_out)["logits"] for artifact in (int8, fp32))
    assert accuracy.samples == len(expected)
    assert accuracy.max_abs_error == pytest.approx(np.abs(answers - expected).max(), rel=1e-3)
    assert accuracy.agreement == (answers.argmax(axis=1) == expected.argmax(axis=1)).mean()
    assert 0 < accuracy.max_abs_error < expected.std()


def test_triton_serves_an_int8_repository_as_onnxruntime_answers(tmp_path: Path) -> None:
    artifact = build(named_recipe("bert-small", "trt-db", "int8"), print)
    port = free_port()
    arguments = [f"--model-repository={artifact.folder}", f"--http-port={port}", "--allow-grpc=false"]
    triton = Triton(
        install(tmp_path / "triton"),
        [*arguments, "--allow-metrics=false"],
        {},
        ports=[port],
        ready=(port, "/v2/health/ready"),
        seconds=60,
        log=tmp_path / "log",
    )
    try:
        inputs = sample_inputs(load_spec("bert-small"), 2)
        tensors = [
            {"name": name, "shape": array.shape, "datatype": "INT32", "data": array.ravel().tolist()}
            for name, array in inputs.items()
        ]
        status, _, body = triton.request(
            port, "POST", "/v2/models/bert-small/infer", json.dumps({"inputs": tensors}).encode()
        )
        assert status == 200, body
        expected = reference_outputs(onnx_file(artifact), inputs)["logits"]
        assert np.abs(np.reshape(json.loads(body)["outputs"][0]["data"], expected.shape) - expected).max() < TOLERANCE
    finally:
        triton.stop()


def test_int8_is_calibrated_on_the_data_that_is_given(tmp_path: Path) -> None:
    spec = load_spec("bert-small")
    np.savez(tmp_path / "0.npz", **sample_inputs(spec, 10, seed=3))  # pyright: ignore[reportArgumentType] - as above
    lines: list[str] = []
    artifact = build(named_recipe("bert-small", "trt-db", "int8", calibration_data=tmp_path), lines.append)
    assert artifact.manifest.accuracy
    assert artifact.manifest.accuracy.data == CalibrationData(tmp_path).digest
    assert artifact.manifest.accuracy.samples == 2
    assert artifact.digest != build(named_recipe("bert-small", "trt-db", "int8"), print).digest
    assert not any("CALIBRATED ON RANDOM" in line for line in lines)


def test_distilgpt2_scores_the_token_after_the_text_and_padding_does_not_matter() -> None:
    spec = load_spec("distilgpt2")
    path = Conversion(spec, "onnx").folder / "model.onnx"
    Conversion(spec, "onnx").make(print)
    inputs = sample_inputs(spec, 2)
    inputs["attention_mask"][:] = np.arange(128) < [[40], [90]]
    logits = reference_outputs(path, inputs)["logits"]
    assert logits.shape == (2, 50257)
    for change, is_read in ((39, True), (40, False), (127, False), (0, True)):
        other = inputs["input_ids"].copy()
        other[0, change] = (other[0, change] + 1) % 50257
        changed = reference_outputs(path, inputs | {"input_ids": other})["logits"]
        np.testing.assert_allclose(changed[1], logits[1], atol=TOLERANCE)
        assert (np.abs(changed[0] - logits[0]).max() > 10 * TOLERANCE) == is_read


def test_a_source_that_does_not_exist_is_told_in_one_line(tmp_path: Path) -> None:
    spec = tmp_path / "resnet50.yaml"
    spec.write_text((MODELS / "resnet50.yaml").read_text().replace("model: resnet50", "model: resnet51"))
    done = run_python("-m", "model_repo.export", str(spec), str(tmp_path), "onnx")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("resnet50.yaml: source: ")
    assert "Traceback" not in done.stderr


def test_calibration_data_that_does_not_fit_is_told_in_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", input_ids=np.zeros((5, 128), np.int32))
    with pytest.raises(BuildError, match=r"0\.npz: holds input_ids; bert-small takes input_ids, attention_mask"):
        build(named_recipe("bert-small", "trt-db", "int8", calibration_data=tmp_path), print)


def test_what_a_t4_compiles_from_is_the_onnx_file_samples_and_its_answers() -> None:
    recipe = named_recipe("bert-small", "trt-db", "fp16", "t4")
    source = prepare_engine(recipe, print)
    assert source.manifest.check_folder(source.folder) == []
    assert {file.path for file in source.manifest.files} == {
        "model.onnx",
        "samples/input_ids.bin",
        "samples/attention_mask.bin",
        "expected/logits.bin",
    }
    # Another variant of the same engine is built from the same source.
    assert prepare_engine(named_recipe("bert-small", "trt-base", "fp16", "t4"), print) == source
    exported, found = prepared_engine(recipe)
    assert (exported.sha256, found) == (source.manifest.files[1].sha256, source)
