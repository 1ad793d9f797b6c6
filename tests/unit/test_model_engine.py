"""What an engine is named by and built by, known before any build."""

import array
from pathlib import Path

import pytest

from model_repo import engine
from model_repo.compatibility import triton_releases
from model_repo.engine import (
    EngineError,
    build_key,
    engine_order,
    trtexec_build_line,
    trtexec_check_line,
    write_samples,
)
from model_repo.exported import ExportedModel
from model_repo.manifest import AccuracyChange, ManifestFile
from model_repo.recipe import Recipe, named_recipe
from model_repo.sample import Array
from model_repo.spec import load_spec

NEWEST = triton_releases()["25.09"]
ONNX = "0" * 64
BERT = named_recipe("bert-large", "trt-ig-db", "fp16", "t4")


def test_the_line_says_the_precision_the_profile_and_a_workspace_that_leaves_half_a_t4_free() -> None:
    assert trtexec_build_line(BERT) == (
        "trtexec",
        "--onnx=model.onnx",
        "--saveEngine=model.plan",
        "--fp16",
        "--minShapes=input_ids:1x512,attention_mask:1x512",
        "--optShapes=input_ids:16x512,attention_mask:16x512",
        "--maxShapes=input_ids:128x512,attention_mask:128x512",
        "--memPoolSize=workspace:8192",
        "--timingCacheFile=timing.cache",
        "--skipInference",
    )


def test_an_image_model_s_profile_has_every_dimension() -> None:
    line = trtexec_build_line(named_recipe("resnet50", "trt-db", "fp32", "t4"))
    (name,) = (tensor.name for tensor in load_spec("resnet50").inputs)
    assert f"--minShapes={name}:1x3x224x224" in line
    assert not [flag for flag in line if flag in {"--fp16", "--int8"}]


def test_int8_lets_what_is_not_quantised_run_in_half_precision() -> None:
    line = trtexec_build_line(named_recipe("bert-large", "trt-db", "int8", "t4"))
    assert [flag for flag in line if flag in {"--fp16", "--int8"}] == ["--int8", "--fp16"]


def test_the_engine_is_run_on_the_samples_once() -> None:
    assert trtexec_check_line(BERT.spec) == (
        "trtexec",
        "--loadEngine=model.plan",
        "--shapes=input_ids:2x512,attention_mask:2x512",
        "--loadInputs=input_ids:samples/input_ids.bin,attention_mask:samples/attention_mask.bin",
        "--exportOutput=outputs.json",
        "--exportTimes=times.json",
        "--iterations=1",
        "--warmUp=0",
        "--duration=0",
    )


def test_the_key_changes_with_all_that_an_engine_is_built_from() -> None:
    profile = BERT.spec.profile.model_copy(update={"opt": 8})
    spec = BERT.spec.model_copy(update={"profile": profile})
    keys = {
        build_key(BERT, ONNX, NEWEST),
        build_key(BERT, "1" * 64, NEWEST),
        build_key(BERT, ONNX, triton_releases()["24.09"]),
        build_key(named_recipe("bert-large", "trt-ig-db", "fp32", "t4"), ONNX, NEWEST),
        build_key(Recipe(spec, BERT.variant, "fp16", "t4"), ONNX, NEWEST),
    }
    assert len(keys) == 5


def test_the_key_is_the_same_for_variants_that_differ_in_how_triton_serves_the_engine() -> None:
    assert build_key(BERT, ONNX, NEWEST) == build_key(
        named_recipe("bert-large", "trt-base", "fp16", "t4"), ONNX, NEWEST
    )


def test_the_key_depends_on_nothing_else() -> None:
    """A changed key builds every engine again: this one is written down."""
    assert build_key(BERT, ONNX, NEWEST).startswith("76ffa0562ac0")


def test_the_order_carries_what_the_manifest_says_besides_the_build() -> None:
    onnx = ManifestFile(path="model.onnx", size_bytes=1, sha256=ONNX)
    accuracy = AccuracyChange(data="seeded-random", samples=8, max_abs_error=0.1, agreement=1)
    order = engine_order(
        BERT,
        ExportedModel(weights="hub@1", parity_error=0, files=(onnx,), accuracy=accuracy),
        NEWEST,
        "sources/one",
    )
    assert order.key == build_key(BERT, ONNX, NEWEST)
    assert (order.triton_release, order.tensorrt, order.compute_capability) == ("25.09", "10.13.3.9", "7.5")
    assert 'platform: "tensorrt_plan"' in order.files["bert-large/config.pbtxt"]
    assert order.engine_path == "bert-large/1/model.plan"
    assert order.manifest == {
        "name": "bert-large",
        "variant": "trt-ig-db",
        "precision": "fp16",
        "device": "t4",
        "weights": "hub@1",
        "accuracy": {"data": "seeded-random", "samples": 8, "max_abs_error": 0.1, "agreement": 1},
    }


@pytest.mark.parametrize(("variant", "device"), [("pt-db", "t4"), ("trt-db", "cpu")])
def test_what_no_engine_serves_is_refused_with_what_to_write(variant: str, device: str) -> None:
    with pytest.raises(EngineError, match=r"nothing is compiled for it: .* write a trt-\* variant and device t4"):
        trtexec_build_line(named_recipe("bert-large", variant, "fp32", device))


def test_samples_lie_beside_the_onnx_file_as_the_job_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(path: Path, inputs: dict[str, Array]) -> dict[str, Array]:
        assert path == tmp_path / "model.onnx"
        return {"logits": inputs["input_ids"][:, :2]}

    monkeypatch.setattr(engine, "reference_outputs", answers)  # tests/local has onnxruntime's
    spec = load_spec("bert-small")
    write_samples(spec, tmp_path / "model.onnx", tmp_path)
    ids = array.array("i", (tmp_path / "samples/input_ids.bin").read_bytes())
    columns = spec.inputs[0].dims[0]
    assert len(ids) == 2 * columns
    expected = array.array("f", (tmp_path / "expected/logits.bin").read_bytes())
    assert list(expected) == [*ids[:2], *ids[columns : columns + 2]]
