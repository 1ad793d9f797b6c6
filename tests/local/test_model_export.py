"""The real export, by PyTorch: the bytes, the answers, and what a second build costs.

The models are built in the user's cache, where they stay: the first run takes a minute, and 5.5 GB for PyTorch.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest

from model_repo.build import ModelArtifact, build, built
from model_repo.cache import cache_path
from model_repo.conversion import Conversion
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


def test_the_same_spec_exports_to_the_same_bytes_that_name_no_file_of_this_machine(tmp_path: Path) -> None:
    artifact = build(named_recipe("bert-small", "trt-db"), print)
    python = cache_path() / "export-environment" / "bin" / "python"
    command = [str(python), "-m", "model_repo.export", str(MODELS / "bert-small.yaml"), str(tmp_path), "onnx"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    again = (tmp_path / "model.onnx").read_bytes()
    assert again == onnx_file(artifact).read_bytes()
    assert str(ROOT).encode() not in again
    assert b"site-packages" not in again


def test_a_source_that_does_not_exist_is_told_in_one_line(tmp_path: Path) -> None:
    build(named_recipe("bert-small", "trt-db"), print)  # for its environment
    spec = tmp_path / "resnet50.yaml"
    spec.write_text((MODELS / "resnet50.yaml").read_text().replace("model: resnet50", "model: resnet51"))
    python = cache_path() / "export-environment" / "bin" / "python"
    command = [str(python), "-m", "model_repo.export", str(spec), str(tmp_path), "onnx"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("resnet50.yaml: source: ")
    assert "Traceback" not in done.stderr
