"""Specs: those of the project hold; a wrong one is refused with one line an error."""

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from model_repo.spec import MODELS, BatchProfile, SpecError, TransformersSource, load_spec, read_spec, spec_names

BERT_SMALL = (MODELS / "bert-small.yaml").read_text(encoding="utf-8")


def errors(folder: Path, text: str) -> list[str]:
    """The lines with which ``text`` is refused as bert-small's spec."""
    (folder / "bert-small.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        read_spec(folder / "bert-small.yaml")
    return str(caught.value).splitlines()


@pytest.mark.parametrize("name", spec_names())
def test_every_spec_of_the_project_holds(name: str) -> None:
    assert load_spec(name).name == name


def test_bert_large_is_the_benchmarked_model() -> None:
    spec = load_spec("bert-large")
    assert [tensor.dims for tensor in spec.inputs] == [(512,), (512,)]
    assert spec.outputs[0].dims == (2,)
    assert spec.max_batch_size == 16
    assert spec.profile == BatchProfile(min=1, opt=16, max=128)
    assert isinstance(spec.source, TransformersSource)
    assert spec.source.architecture.num_hidden_layers == 24


def test_a_model_that_does_not_exist_is_answered_with_those_that_do() -> None:
    with pytest.raises(
        SpecError, match=r'^"bert-lage" is not a model; one of bert-large, bert-small, distilgpt2, resnet50$'
    ):
        load_spec("bert-lage")


@pytest.mark.parametrize(
    ("good", "bad", "line"),
    [
        ("INT32, dims: [128], content: t", "INT65, dims: [128], content: t", r'inputs\.0\.dtype: "INT65": .*"INT32"'),
        ("max_batch_size: 16", "max_batch_size: 0", r"max_batch_size: 0: .*greater than 0; such as 16"),
        ("max_batch_size: 16", "max_batch_size: true", r"max_batch_size: true: .*integer"),
        ("max_batch_size: 16", "max_batch_size: '16'", r'max_batch_size: "16": .*integer'),
        ("max_batch_size: 16", "max_batch_size: .nan", r"max_batch_size: NaN: .*integer"),
        ("max_batch_size: 16", "max_batch_size: 32", r"max_batch_size: 32 is more than profile\.max, 16: .*use 16"),
        ("opt: 16", "opt: 17", r"profile: .*min ≤ opt ≤ max"),
        (
            "5e123abc2480f0c4b4cac186d3b3f09299c258fc",
            "main",
            r'source\.hub\.revision: "main": .*such as "[0-9a-f]{40}"',
        ),
        ("kind: transformers", "kind: keras", r"source: .*'keras'.*'transformers', 'gpt2', 'torchvision'"),
        ("[2]", "[]", r"outputs\.0\.dims: must be source\.architecture\.num_labels: \[2\]"),
        ("[128]", "[]", r"inputs: dims must be the sequence length"),
        ("[2]", "[3]", r"outputs\.0\.dims: must be source\.architecture\.num_labels: \[2\]"),
        ("num_attention_heads: 4", "num_attention_heads: 3", r"num_attention_heads: must divide hidden_size"),
        ("[128], content: a", "[64], content: a", r"inputs: dims must be the sequence length, the same"),
        (
            "content: attention-mask",
            "content: image",
            r"inputs: a transformers model takes, .*token-ids, attention-mask",
        ),
        ("  seed: 0", "", r"source\.seed: Field required; such as 0"),
        ("seed: 0", "seed: 0\n  sed: 1", r"source\.sed: is not a key; one of kind, hub, architecture, seed"),
        ("name: bert-small", "name: bert-tiny", r'name: "bert-tiny" must be the name of the file, bert-small'),
        ("name: bert-small", "name: [", r"cannot be read as YAML: "),
        ("name: bert-small", "2020-01-01: a", r"cannot be read as YAML: "),
        ("[128]", "[1024]", r"inputs\.0\.dims: 1024 tokens are more than .*use \[512\] or less"),
    ],
)
def test_an_error_names_the_place_the_value_and_what_works(tmp_path: Path, good: str, bad: str, line: str) -> None:
    assert good in BERT_SMALL
    found = errors(tmp_path, BERT_SMALL.replace(good, bad))
    assert all(text.startswith("bert-small.yaml: ") for text in found)
    assert re.search(line, found[0])


def test_every_error_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    text = BERT_SMALL.replace("max_batch_size: 16", "max_batch_size: 0").replace("FP32", "FP33")
    assert len(errors(tmp_path, text)) == 2


def test_a_file_that_is_not_there_is_an_error_of_the_same_kind(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^none\.yaml: cannot be read"):
        read_spec(tmp_path / "none.yaml")


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside ``node``."""
    children: list[tuple[Any, Any]] = []
    if isinstance(node, dict):
        children = list(cast("dict[Any, Any]", node).items())
    elif isinstance(node, list):
        children = list(enumerate(cast("list[Any]", node)))
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


@given(place=st.sampled_from(places(yaml.safe_load(BERT_SMALL))), junk=JUNK)
def test_whatever_a_value_is_replaced_by_is_read_or_refused_line_by_line(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[Any, ...], junk: object
) -> None:
    root = {"spec": yaml.safe_load(BERT_SMALL)}
    node: Any = root
    for key in ("spec", *place)[:-1]:
        node = node[key]
    node[("spec", *place)[-1]] = junk
    path = tmp_path_factory.mktemp("spec") / "bert-small.yaml"
    path.write_text(yaml.safe_dump(root["spec"], allow_unicode=True), encoding="utf-8")
    read, refusal = None, ""
    try:
        read = read_spec(path)
    except SpecError as error:
        refusal = str(error)
    if read:
        # A date of YAML's is taken as the text that stands there.
        written = json.loads(json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")), default=str))
        assert read.model_dump(mode="json") == written
    else:
        assert refusal
        assert all(line.startswith("bert-small.yaml: ") for line in refusal.splitlines())
