"""Placements: what is where, and what a T4's memory holds."""

from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from google.protobuf import text_format

from model_repo.config import ModelConfig
from model_repo.memory import CONTEXT_BYTES, T4_BYTES, footprint, peak_activations
from model_repo.placement import (
    PLACEMENTS,
    PlacementError,
    load_placement,
    needed_bytes,
    placement_files,
    placement_names,
    read_placement,
    shares,
)
from model_repo.recipe import named_recipe
from model_repo.spec import load_spec
from model_repo.yamlfile import SpecError

C: dict[str, Any] = yaml.safe_load((PLACEMENTS / "c.yaml").read_text(encoding="utf-8"))


def written(folder: Path, **changes: object) -> Path:
    """Placement c with other values at its top level."""
    (folder / "c.yaml").write_text(yaml.safe_dump({**C, **changes}), encoding="utf-8")
    return folder / "c.yaml"


def groups(name: str, model: str) -> list[tuple[int, list[int]]]:
    """The instance groups of a model in a placement: count and GPUs."""
    text = placement_files(load_placement(name))[f"{model}/config.pbtxt"].decode()
    config = cast("Any", text_format.Parse(text, ModelConfig()))
    assert all(group.kind == group.KIND_GPU for group in config.instance_group)
    return [(group.count, list(group.gpus)) for group in config.instance_group]


def test_the_three_placements_put_the_instances_where_they_say() -> None:
    assert placement_names() == ["a", "b", "c"]
    assert groups("a", "bert-large") == [(2, [])]
    assert groups("b", "bert-large") == [(1, [0]), (2, [1, 2, 3])]
    assert groups("c", "bert-large") == [(7, [])]
    assert groups("c", "distilgpt2") == [(2, [])]


def test_a_gpu_holds_the_instances_that_are_on_it() -> None:
    b = load_placement("b")
    assert [shares(b, gpu)[0].instances for gpu in range(4)] == [1, 2, 2, 2]
    (one,), (two,) = shares(b, 0), shares(b, 1)
    assert needed_bytes([two]) - needed_bytes([one]) == one.footprint.instance_bytes


def test_the_estimate_is_weights_in_the_precision_and_activations_of_the_largest_batch() -> None:
    # By hand, for 512 tokens, 1,024 wide, 16 heads: input, query, key and value, and the scores twice.
    assert peak_activations(load_spec("bert-large")) == 4 * 512 * 1024 + 2 * 16 * 512 * 512
    # 128 tokens, 768 wide, 3,072 inside: here the feed-forward half is the larger.
    assert peak_activations(load_spec("distilgpt2")) == 2 * 128 * (768 + 3072)
    assert peak_activations(load_spec("resnet50")) == 16 * 3 * 224 * 224
    engine = footprint(named_recipe("bert-large", "trt-db", "fp16", "t4"))
    assert engine.weights_bytes == 2 * 335_143_938
    assert engine.workspace_bytes == 2 * 128 * peak_activations(load_spec("bert-large"))
    pytorch = footprint(named_recipe("bert-large", "pt-db", "fp32", "t4"))
    assert pytorch.weights_bytes == 2 * engine.weights_bytes
    assert pytorch.workspace_bytes == 4 * 16 * peak_activations(load_spec("bert-large"))


def test_what_a_t4_has_no_memory_for_is_refused_with_what_to_lower(tmp_path: Path) -> None:
    distilgpt2, bert = C["models"]
    # At the engine's own profile, batches of 128.
    path = written(tmp_path, models=[distilgpt2, {key: bert[key] for key in bert if key != "max_batch_size"}])
    with pytest.raises(PlacementError, match=r"^placement c: GPU 0 needs 24\.9 GB of a T4's 15\.8 GB") as caught:
        placement_files(read_placement(path))
    assert "lower its instances to 4, its max_batch_size or its precision" in str(caught.value)
    # What is told to fit, fits, and one more does not.
    for instances, fits in ((4, True), (5, False)):
        fewer = {**bert, "max_batch_size": 128, "groups": [{"instances": instances}]}
        placement = read_placement(written(tmp_path, models=[distilgpt2, fewer]))
        assert (needed_bytes(shares(placement, 0)) <= T4_BYTES) == fits


def test_one_instance_that_is_too_large_is_told_so(tmp_path: Path) -> None:
    model = {"model": "bert-large", "variant": "trt-db", "precision": "fp32", "groups": [{"instances": 3}]}
    placed = read_placement(written(tmp_path, models=[model]))
    assert needed_bytes(shares(placed, 0)) == CONTEXT_BYTES + 3 * shares(placed, 0)[0].footprint.instance_bytes
    with pytest.raises(PlacementError, match="lower its instances to 2"):
        placement_files(placed)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"gpus": 9}, r"c\.yaml: gpus: 9: .*less than or equal to 8; such as 4"),
    ({"gpu": 1}, r"c\.yaml: gpu: is not a key; one of name, description, gpus, models"),
    ({"models": []}, r"c\.yaml: models: must have an entry"),
    ({"name": "d"}, r'c\.yaml: name: "d" must be the name of the file, c'),
    ({"models": C["models"] * 2}, r"c\.yaml: models: a model is named twice"),
    (
        {"models": [{**C["models"][0], "groups": [{"instances": 1, "gpus": [1]}]}]},
        r"c\.yaml: models: GPU 1 is not there",
    ),
    ({"models": [{**C["models"][0], "groups": []}]}, r"c\.yaml: models\.0\.groups: .*must have an entry"),
    (
        {"models": [{**C["models"][0], "groups": [{"instances": 1}, {"instances": 1}]}]},
        r"must name each GPU once",
    ),
    (
        {"models": [{**C["models"][0], "groups": [{"instances": 1, "gpus": [0, 0]}]}]},
        r"must name each GPU once",
    ),
]


@pytest.mark.parametrize(("changes", "line"), WRONG)
def test_a_wrong_placement_is_one_line(tmp_path: Path, changes: dict[str, object], line: str) -> None:
    with pytest.raises(SpecError, match=line) as caught:
        read_placement(written(tmp_path, **changes))
    assert len(str(caught.value).splitlines()) == 1


def test_a_placement_that_does_not_exist_is_answered_with_those_that_do() -> None:
    with pytest.raises(SpecError, match=r'^"d" is not a placement; one of a, b, c$'):
        load_placement("d")
