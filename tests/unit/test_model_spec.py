"""Specs: those of the project hold; a wrong one is refused with one line an error."""

import copy
import re
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.main import main
from model_repo.schema import SCHEMAS, schema_text
from model_repo.spec import (
    MODELS,
    BatchProfile,
    ModelSpec,
    TransformersSource,
    changed,
    load_spec,
    read_spec,
    spec_names,
)
from model_repo.yamlfile import SpecError

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


SPECS = {name: yaml.safe_load((MODELS / f"{name}.yaml").read_text(encoding="utf-8")) for name in spec_names()}
PLACES = [(name, place) for name, spec in SPECS.items() for place in places(spec)[1:]]
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**31, 2**64, 10**400, -1, 0, 1, 1e308, float("nan"), float("-inf")]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["\u202e", "\x1b[31m", "\n", "\ud83d", "../..", "image", "text", "\0"]),
    st.dates(),
    st.binary(max_size=4),
    st.lists(st.one_of(st.integers(), st.text(max_size=2)), max_size=3),
    st.dictionaries(st.one_of(st.text(max_size=4), st.integers()), st.integers(), max_size=2),
    st.recursive(st.integers(), lambda inner: st.lists(inner, min_size=1, max_size=1), max_leaves=9),
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, Any]:
    """A spec of the project with one value replaced, dropped, renamed, wrapped or twice there."""
    name, place = draw(st.sampled_from(PLACES))
    root: Any = {"spec": copy.deepcopy(SPECS[name])}
    node: Any = root
    for key in ("spec", *place)[:-1]:
        node = node[key]
    key = place[-1]
    match draw(st.sampled_from(["replace", "drop", "rename", "wrap", "repeat"])):
        case "replace":
            node[key] = draw(JUNK)
        case "drop":
            del node[key]
        case "rename" if isinstance(node, dict):
            renamed = draw(st.one_of(st.text(max_size=8), st.integers(), st.none()))
            cast("dict[Any, Any]", node)[renamed] = cast("dict[Any, Any]", node).pop(key)
        case "wrap":
            node[key] = draw(st.sampled_from([[node[key]], {str(key): node[key]}]))
        case _ if isinstance(node, list):
            cast("list[Any]", node).append(node[key])
        case _:
            node[f"{key} "] = node[key]
    return name, root["spec"]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=mutated())
def test_whatever_is_done_to_a_spec_it_is_read_or_refused_in_printable_lines(
    tmp_path: Path, case: tuple[str, Any]
) -> None:
    name, content = case
    path = tmp_path / f"{name}.yaml"
    try:
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    except yaml.YAMLError:  # what YAML cannot write, no file can hold
        return
    read, refusal = None, ""
    try:
        read = read_spec(path)
    except SpecError as error:
        refusal = str(error)
    if read:
        assert ModelSpec.model_validate_json(read.model_dump_json(), strict=True) == read
        assert read.name == name
    else:
        assert refusal
        for line in refusal.splitlines():
            assert line.startswith(f"{name}.yaml: ")
            assert line.isprintable()


@pytest.mark.parametrize("text", ["", "a: [", "\0", "a: \ud83d", "- " * 400, "{" * 400, "&a [*a]", "? : :", "1"])
def test_a_file_that_is_no_spec_is_refused_by_the_command_line_without_a_traceback(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bert-small.yaml").write_bytes(text.encode(errors="surrogatepass"))
    monkeypatch.setattr("model_repo.spec.MODELS", tmp_path)
    monkeypatch.setattr("sys.argv", ["triton-stack", "model", "render", "bert-small"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err.splitlines()
    assert said
    assert all(line.startswith("error: bert-small.yaml: ") for line in said)


@pytest.mark.parametrize(
    ("section", "bad", "line"),
    [
        ("serving", {"warmup": [16, 1]}, r"serving\.warmup: \[16, 1\]: must rise, each size once, as in \[8, 16\]"),
        ("serving", {"warmup": [1, 17]}, r"serving\.warmup: 17 is more than max_batch_size, 16"),
        ("serving", {"preferred_batch_sizes": [32]}, r"serving\.preferred_batch_sizes: 32 is more than max_batch_size"),
        ("serving", {"instances": 0}, r"serving\.instances: 0: .*greater than or equal to 1"),
        ("serving", {"queue": {}}, r"serving\.queue\.max_queue_size: Field required"),
        ("serving", {"queue": {"max_queue_size": 1, "timeout_action": "drop"}}, r"timeout_action: \"drop\""),
        ("pipeline", {"kind": "image"}, r"pipeline\.labels: Field required; such as \"sentiment\.txt\""),
        ("pipeline", {"kind": "text", "labels": "../x.txt", "top_k": 2}, r"pipeline\.labels: \"\.\./x\.txt\""),
        ("pipeline", {"kind": "text", "labels": "x.txt", "top_k": 3}, r"pipeline\.top_k: 3 classes of .*\[2\]"),
        ("pipeline", {"kind": "sound"}, r"pipeline: .*'sound'"),
    ],
)
def test_a_section_that_does_not_fit_is_one_line(tmp_path: Path, section: str, bad: object, line: str) -> None:
    found = errors(tmp_path, yaml.safe_dump({**SPECS["bert-small"], section: bad}))
    assert re.search(line, found[0])


def test_a_pipeline_goes_with_its_kind_of_model(tmp_path: Path) -> None:
    swapped = {**SPECS["bert-small"], "pipeline": SPECS["resnet50"]["pipeline"]}
    assert errors(tmp_path, yaml.safe_dump(swapped)) == [
        "bert-small.yaml: pipeline.kind: a transformers model takes text"
    ]


def test_an_option_that_does_not_fit_the_model_names_the_model() -> None:
    with pytest.raises(SpecError, match=r"^resnet50: serving\.warmup: 17 is more than max_batch_size, 16"):
        changed(load_spec("resnet50"), {"serving": {"warmup": [17]}})


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.parent.name)
def test_the_schema_for_editors_is_current_and_every_file_names_it(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == schema_text(path), "run python -m model_repo.schema"
    for file in path.parent.glob("*.yaml"):
        assert file.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=schema.json\n")
