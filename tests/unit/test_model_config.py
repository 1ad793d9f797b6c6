"""``config.pbtxt``: the exact text of every model, variant and device, of options, ensembles and placements.

After an intended change, ``python -m tests.unit.test_model_config`` writes the expected files anew: read their diff.
"""

from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from model_repo.check import repository_errors
from model_repo.config import config_pbtxt, model_config
from model_repo.exported import ONNX_NAME
from model_repo.placement import load_placement, placement_files, placement_names
from model_repo.recipe import named_recipe
from model_repo.spec import spec_names
from model_repo.tree import configuration_files
from model_repo.variant import VARIANTS, Device

GOLDEN = Path(__file__).parent / "golden"
DEVICES: tuple[Device, ...] = get_args(Device)
CASES: list[tuple[str, str, Device]] = [
    (name, variant, device) for name in spec_names() for variant in VARIANTS for device in DEVICES
]

OPTIONS: dict[str, object] = {
    "preferred_batch_sizes": [8, 16],
    "max_queue_delay_microseconds": 100,
    "instances": 4,
    "warmup": [],
    "response_cache": True,
    "queue": {"max_queue_size": 32, "default_timeout_microseconds": 250_000, "allow_timeout_override": True},
}


@cache
def repositories() -> dict[str, dict[str, bytes]]:
    """Repositories of more than a variant, by name."""
    ensemble = {"ensemble": True}
    return {
        "options": configuration_files(named_recipe("bert-large", "trt-ig-db", "fp16", "t4", OPTIONS)),
        "ensemble-text-t4": configuration_files(named_recipe("bert-large", "trt-db", "fp16", "t4", ensemble)),
        "ensemble-image-t4": configuration_files(named_recipe("resnet50", "pt-db", "fp16", "t4", ensemble)),
        "ensemble-image-cpu": configuration_files(named_recipe("resnet50", "trt-db", "fp32", "cpu", ensemble)),
        **{f"placement-{name}": placement_files(load_placement(name)) for name in placement_names()},
    }


@cache
def expected_files() -> dict[Path, str]:
    """Every golden file and what it should hold."""
    files = {
        GOLDEN / "model_config" / device / name / f"{variant}.pbtxt": config_pbtxt(
            model_config(named_recipe(name, variant, "fp32", device))
        )
        for name, variant, device in CASES
    }
    for repository, content in repositories().items():
        for path in content:
            if path.endswith(".pbtxt"):
                files[GOLDEN / "repositories" / repository / path] = content[path].decode()
    return files


@pytest.mark.parametrize("path", expected_files(), ids=lambda path: str(cast("Path", path).relative_to(GOLDEN)))
def test_the_text_is_the_expected_one(path: Path) -> None:
    assert expected_files()[path] == path.read_text(encoding="utf-8")


def test_no_expected_file_is_left_over() -> None:
    assert set(GOLDEN.rglob("*.pbtxt")) == set(expected_files())


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
    file = {"pt": "model.pt", "trt": "model.plan"}[asked.framework]
    assert config.default_model_filename == ("" if device == "cpu" else file)


@pytest.mark.parametrize("name", repositories())
def test_our_own_check_finds_nothing_wrong_but_the_weights_that_are_to_come(name: str, tmp_path: Path) -> None:
    for path, content in repositories()[name].items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    for model in tmp_path.iterdir():
        for weights in (ONNX_NAME, "model.pt", "model.plan"):
            (model / "1").mkdir(exist_ok=True)
            (model / "1" / weights).touch()
    assert repository_errors(tmp_path, gpus=4) == []


def test_an_ensemble_has_an_object_in_its_version_so_that_a_bucket_has_it_too() -> None:
    assert repositories()["ensemble-text-t4"]["bert-large/1/README"]


def test_the_precision_changes_no_configuration() -> None:
    texts = {
        config_pbtxt(model_config(named_recipe("bert-large", "trt-db", precision, "t4")))
        for precision in ("fp32", "fp16", "int8")
    }
    assert len(texts) == 1


if __name__ == "__main__":
    for file, text in expected_files().items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
