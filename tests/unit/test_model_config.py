"""``config.pbtxt``: the exact text of every model, variant and device.

After an intended change, ``python -m tests.unit.test_model_config`` writes the expected files anew: read their diff.
"""

from pathlib import Path
from typing import Any, cast, get_args

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from model_repo.config import config_pbtxt, model_config
from model_repo.recipe import named_recipe
from model_repo.spec import spec_names
from model_repo.variant import VARIANTS, Device

GOLDEN = Path(__file__).parent / "golden" / "model_config"
DEVICES: tuple[Device, ...] = get_args(Device)
CASES: list[tuple[str, str, Device]] = [
    (name, variant, device) for name in spec_names() for variant in VARIANTS for device in DEVICES
]


def golden_file(name: str, variant: str, device: str) -> Path:
    return GOLDEN / device / name / f"{variant}.pbtxt"


@pytest.mark.parametrize(("name", "variant", "device"), CASES)
def test_the_text_is_the_expected_one(name: str, variant: str, device: Device) -> None:
    expected = golden_file(name, variant, device).read_text(encoding="utf-8")
    assert config_pbtxt(model_config(named_recipe(name, variant, "fp32", device))) == expected


def test_no_expected_file_is_left_over() -> None:
    assert set(GOLDEN.rglob("*.pbtxt")) == {golden_file(*case) for case in CASES}


@pytest.mark.parametrize(("name", "variant", "device"), CASES)
def test_triton_reads_back_what_the_variant_asks_for(name: str, variant: str, device: Device) -> None:
    recipe = named_recipe(name, variant, "fp32", device)
    spec, asked = recipe.spec, recipe.variant
    config = cast("Any", model_config_pb2).ModelConfig()
    text_format.Parse(config_pbtxt(model_config(recipe)), config)
    assert config == model_config(recipe)
    assert config.HasField("dynamic_batching") == asked.dynamic_batching
    assert [group.count for group in config.instance_group] == [asked.instances_per_gpu]
    assert config.max_batch_size == spec.max_batch_size
    # All variants run the same ONNX file on a CPU; on a T4 the engine and the PyTorch model differ.
    served_by = config.backend or config.platform
    assert served_by == (
        "onnxruntime" if device == "cpu" else {"pt": "pytorch_libtorch", "trt": "tensorrt_plan"}[asked.framework]
    )


if __name__ == "__main__":
    for model, variant_name, on in CASES:
        file = golden_file(model, variant_name, on)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(config_pbtxt(model_config(named_recipe(model, variant_name, "fp32", on))), encoding="utf-8")
