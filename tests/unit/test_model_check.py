"""The check of a repository, beyond what tests/local holds against a real Triton's own words."""

from pathlib import Path

import pytest

from model_repo.check import repository_errors

GOOD = """
backend: "onnxruntime"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 4 }
output { name: "y" data_type: TYPE_FP32 dims: 4 }
instance_group { count: 1 kind: KIND_CPU }
"""


def errors(folder: Path, config: str, gpus: int = 0) -> list[str]:
    """What is wrong with a repository of one model, which has its file."""
    (folder / "good/1").mkdir(parents=True)
    (folder / "good/1/model.onnx").touch()
    (folder / "good/config.pbtxt").write_text(config)
    return repository_errors(folder, gpus)


def test_a_model_that_triton_loads_has_nothing_wrong(tmp_path: Path) -> None:
    assert errors(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("addition", "line"),
    [
        ('input { name: "x" data_type: TYPE_FP32 dims: 4 }', "good: model input 'x' is there 2 times for good"),
        ("instance_group { count: -1 kind: KIND_CPU }", "good: instance group good_1 of model good has -1 instances"),
        # Triton 2.51 loads this, and dies as it warms up.
        ('model_warmup { name: "w" batch_size: 9 }', "good: model_warmup 'w': batch size 9 is more than 8"),
    ],
)
def test_what_triton_takes_and_cannot_serve_is_refused(tmp_path: Path, addition: str, line: str) -> None:
    assert errors(tmp_path, GOOD + addition) == [line]


def test_a_version_without_an_object_is_refused_because_a_bucket_has_no_such_folder(tmp_path: Path) -> None:
    (tmp_path / "good/2").mkdir(parents=True)
    assert errors(tmp_path, GOOD) == ["good: version 2 is an empty folder, which does not exist in a bucket"]


def test_a_gpu_that_is_not_there_is_refused_where_others_are(tmp_path: Path) -> None:
    config = GOOD.replace("KIND_CPU", "KIND_GPU gpus: [0, 4]")
    reason = "instance group good_0 of model good specifies invalid or unsupported gpu id 4: the machine has 4"
    assert errors(tmp_path, config, gpus=4) == [f"good: {reason}"]


def test_an_input_that_no_tensor_of_the_ensemble_feeds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "around/1").mkdir(parents=True)
    (tmp_path / "around/1/README").touch()
    step = 'model_name: "good" input_map { key: "x" value: "x" } output_map { key: "y" value: "y" }'
    tensors = [line for line in GOOD.splitlines() if line.startswith(("input", "output", "max_batch_size"))]
    ensemble = ['platform: "ensemble"', *tensors, f"ensemble_scheduling {{ step {{ {step} }} }}"]
    (tmp_path / "around/config.pbtxt").write_text("\n".join(ensemble))
    config = GOOD + 'input { name: "z" data_type: TYPE_FP32 dims: 4 }'
    reason = "in ensemble around, input z in model good is not mapped to any ensemble tensors"
    assert errors(tmp_path, config) == [f"around: {reason}"]


def test_every_error_is_told_at_once(tmp_path: Path) -> None:
    config = GOOD.replace("dims: 4", "").replace("KIND_CPU", "KIND_GPU")
    assert len(errors(tmp_path, config)) == 3


@pytest.mark.parametrize("content", ["\0", "}", "name: 'a' name: 'b'", "input {" * 200, "max_batch_size: 1e99"])
def test_a_file_that_is_no_configuration_is_one_printable_line(tmp_path: Path, content: str) -> None:
    (line,) = errors(tmp_path, content)
    assert line.startswith("good: failed to read text proto")
    assert line.isprintable()


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    errors(tmp_path, GOOD)
    (tmp_path / "good/config.pbtxt").write_bytes(b"\xff\xfe")
    (line,) = repository_errors(tmp_path, gpus=0)
    assert "failed to read text proto" in line
