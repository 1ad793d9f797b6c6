"""What our check refuses, a real Triton refuses for the same reason."""

import importlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_model import CONFIG, write_repository
from tritonclient.utils import InferenceServerException

from localcloud.triton import Triton, install
from model_repo.check import repository_errors

triton_http: Any = importlib.import_module("tritonclient.http")  # untyped

MODEL = CONFIG.replace('name: "tiny"', "")
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 8
input { name: "a" data_type: TYPE_FP32 dims: -1 }
output { name: "b" data_type: TYPE_FP32 dims: -1 }
ensemble_scheduling {
  step {
    model_name: "tiny" model_version: -1
    input_map { key: "x" value: "a" }
    output_map { key: "y" value: "b" }
  }
}
"""


@dataclass(frozen=True)
class Case:
    """A model that differs from one that loads."""

    name: str
    old: str
    new: str
    reason: str
    """In our words and in Triton's."""
    text: str = MODEL
    version: str = "1"
    file: str = "model.onnx"


CASES = [
    Case("unknown-field", "max_batch_size", "max_batch_sise", "failed to read text proto"),
    Case("no-backend", 'backend: "onnxruntime"', "", "Could not determine backend for model", file="other"),
    Case("negative-batch", "size: 8", "size: -8", "'max_batch_size' must be non-negative value"),
    Case(
        "preferred",
        "max_queue_delay_microseconds: 200000",
        "preferred_batch_size: 16",
        "dynamic batching preferred size must be <= max batch size",
    ),
    Case(
        "preferred-zero",
        "max_queue_delay_microseconds: 200000",
        "preferred_batch_size: 0",
        "dynamic batching preferred size must be positive",
    ),
    Case(
        "no-dims",
        '"x" data_type: TYPE_FP32 dims: -1',
        '"x" data_type: TYPE_FP32',
        "model input 'x' must specify 'dims'",
    ),
    Case("no-type", '"y" data_type: TYPE_FP32', '"y"', "model output 'y' must specify 'data_type'"),
    Case("no-tensor-name", 'name: "x"', "", "model input must specify 'name'"),
    Case("zero-dims", "dims: -1", "dims: 0", "model input 'x' dimension must be integer >= 1"),
    Case("gpu", "KIND_CPU", "KIND_GPU", "has kind KIND_GPU but no GPUs are available"),
    Case("gpus-of-a-cpu", "KIND_CPU", "KIND_CPU gpus: 0", "has kind KIND_CPU but specifies one or more GPUs"),
    Case("no-version", "", "", "at least one version must be available under the version policy", version="first"),
    Case("no-file", "", "", "File doesn't exist", file="modell.onnx"),
    Case("other-name", "backend", 'name: "tiny"\nbackend', "directory name must equal model name"),
    Case("no-model", '"tiny"', '"tidy"', "contains models that are not available or ambiguous: tidy", ENSEMBLE),
    Case("no-input", 'key: "x"', 'key: "z"', "ensemble tensor a is mapping to non-existing input z", ENSEMBLE),
    Case("no-output", 'key: "y"', 'key: "z"', "ensemble tensor b is mapped from non-existing output z", ENSEMBLE),
    Case("not-made", 'value: "b"', 'value: "c"', "ensemble output 'b' for ensemble not-made' is not used", ENSEMBLE),
    Case(
        "unfed",
        'input_map { key: "x" value: "a" }',
        "",
        "must specify 'input_map' in step 0 of ensemble 'unfed'",
        ENSEMBLE,
    ),
    Case("large-batch", "size: 8", "size: 16", "which only allows maximum batch size to be 8", ENSEMBLE),
    Case("other-type", '"a" data_type: TYPE_FP32', '"a" data_type: TYPE_INT32', "inconsistent data type", ENSEMBLE),
    Case(
        "other-shape",
        '"a" data_type: TYPE_FP32 dims: -1',
        '"a" data_type: TYPE_FP32 dims: [3, 4]',
        "inconsistent shape",
        ENSEMBLE,
    ),
    Case(
        "no-steps", ENSEMBLE[ENSEMBLE.index("ensemble_scheduling") :], "", "ensemble scheduling must be set", ENSEMBLE
    ),
]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model that loads, and the wrong ones."""
    folder = tmp_path_factory.mktemp("repository")
    write_repository(folder)
    onnx = (folder / "tiny/1/model.onnx").read_bytes()
    for case in CASES:
        assert case.old in case.text
        (folder / case.name / case.version).mkdir(parents=True)
        (folder / case.name / "config.pbtxt").write_text(case.text.replace(case.old, case.new, 1))
        (folder / case.name / case.version / case.file).write_bytes(onnx)
    return folder


@pytest.fixture(scope="module")
def triton(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Triton]:
    """A server that loads what it is told to."""
    folder = tmp_path_factory.mktemp("triton")
    options = ["--model-control-mode=explicit", "--allow-grpc=false", "--allow-metrics=false", "--exit-timeout-secs=1"]
    arguments = [f"--model-repository={repository}", *options]
    ready = (8000, "/v2/health/ready")
    server = Triton(
        install(folder / "install"), arguments, {}, ports=[8000], ready=ready, seconds=60, log=folder / "log"
    )
    yield server
    server.stop()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_our_check_and_triton_refuse_it_with_the_same_words(case: Case, repository: Path, triton: Triton) -> None:
    ours = [line for line in repository_errors(repository, gpus=0) if line.startswith(f"{case.name}: ")]
    assert any(case.reason in line for line in ours)
    said = len(triton.log.read_text())
    host, port = triton.pod.addresses[8000]
    with triton_http.InferenceServerClient(f"{host}:{port}") as client:
        with pytest.raises(InferenceServerException):
            client.load_model(case.name)
        assert case.reason in triton.log.read_text()[said:]


def test_both_accept_what_is_right(repository: Path, triton: Triton) -> None:
    assert not [line for line in repository_errors(repository, gpus=0) if line.startswith("tiny: ")]
    host, port = triton.pod.addresses[8000]
    with triton_http.InferenceServerClient(f"{host}:{port}") as client:
        client.load_model("tiny")
        assert client.is_model_ready("tiny")
