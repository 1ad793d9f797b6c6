"""The command line's own part: help, and what it prints for a person, a shell and a script."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from cli import local, model, recommend
from cli.main import app, main
from cli.status import show_status
from delivery.smoke import Answer
from delivery.status import TargetStatus
from localcloud.cloud import LocalCloud, Ports
from model_repo.spec import spec_names

GROUP = typer.main.get_group(app)
MODEL_COMMANDS = [
    *("list", "show", "render", "place", "build", "check"),
    *("publish", "copy", "verify", "prune", "archive", "export", "bench"),
]
RECOMMEND_COMMANDS = ["run", "suggest", "show", "save", "stop"]
COMMANDS = [
    *(["up"], ["down"], ["status"], ["env"], ["preview"]),
    *(["model", each] for each in MODEL_COMMANDS),
    *(["recommend", each] for each in RECOMMEND_COMMANDS),
]
STATUS = TargetStatus(
    target="sagemaker",
    endpoint="triton-dev-4cce0e5",
    model="bert-large",
    variant="trt-db",
    digest="0123456789abcdef" * 4,
    instance_type="ml.g4dn.2xlarge",
    min_count=1,
    now_count=2,
    max_count=3,
    scaling_target_per_minute=934.5,
    cost_usd_per_hour=1.88,
)


def test_every_command_is_listed_here() -> None:
    groups = {"model": typer.main.get_group(model.app), "recommend": typer.main.get_group(recommend.app)}
    listed: list[list[str]] = []
    for name in GROUP.commands:
        listed += [[name, each] for each in groups[name].commands] if name in groups else [[name]]
    assert listed == COMMANDS


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_says_what_a_command_does_and_shows_an_example(command: list[str]) -> None:
    shown = CliRunner().invoke(app, [*command, "--help"])
    assert shown.exit_code == 0
    assert "Example" in shown.output
    assert f"triton-stack {' '.join(command)}" in shown.output


def test_models_are_listed_as_json_with_the_digests_of_what_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_STACK_CACHE", str(tmp_path))
    listed = CliRunner().invoke(app, ["model", "list", "--json"])
    assert json.loads(listed.stdout) == [{"model": name, "built": []} for name in spec_names()]


def test_a_model_is_shown_with_what_it_takes_of_each_gpu_of_each_placement() -> None:
    shown = json.loads(CliRunner().invoke(app, ["model", "show", "bert-large", "--json"]).stdout)
    assert shown["spec"]["name"] == "bert-large"
    assert len(shown["variants"]) == 8
    (alone,) = [row for row in shown["memory"] if row["placement"] == "c"]
    assert alone["instances"] == 7
    assert alone["weights_bytes"] == 7 * 2 * shown["spec"]["parameters"]
    table = CliRunner().invoke(app, ["model", "show", "bert-large"]).output
    assert "workspace GB" in table


def test_options_of_serving_reach_the_configuration_and_the_written_repository(tmp_path: Path) -> None:
    command = "model render bert-small --variant trt-ig-db --instances 4 --max-queue-delay-microseconds 100 --no-warmup"
    sizes = ["--preferred-batch-size", "8", "--preferred-batch-size", "16"]
    rendered = CliRunner().invoke(app, [*command.split(), *sizes, "--response-cache", "--out", str(tmp_path)])
    assert rendered.exit_code == 0
    text = (tmp_path / "bert-small" / "config.pbtxt").read_text()
    assert text in rendered.output
    for line in (
        "count: 4",
        "preferred_batch_size: 8",
        "preferred_batch_size: 16",
        "_microseconds: 100",
        "enable: true",
    ):
        assert line in text
    assert "model_warmup" not in text


def test_a_placement_is_one_repository_of_all_its_models(tmp_path: Path) -> None:
    CliRunner().invoke(app, ["model", "place", "c", "--out", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert-large", "distilgpt2"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("build bert-small --device a100", '"a100" is no device; one of t4, cpu'),
        ("build bert-small --precision tf32", '"tf32" does not exist on a T4'),
        ("build bert-small --precision fp16 --device cpu", "slower, and no better a test"),
        ("build bert-small --variant pt-db --precision int8", "run on a CPU only"),
        ("build bert-small --variant pt-db --instances 3", "instances: pt-db has one instance a GPU; use pt-ig-db"),
        ("build bert-small --variant trt-ig --preferred-batch-size 8", "trt-ig has no dynamic batching; use trt-db"),
        ("build bert-small --preferred-batch-size 32", "32 is more than max_batch_size, 16"),
        ("build bert-small --max-queue-delay-microseconds 5000000", "less than or equal to 500000"),
        ("build distilgpt2 --ensemble", "serving.ensemble: true needs a section pipeline"),
        ("place d", '"d" is not a placement; one of a, b, c'),
        ("show bert", '"bert" is not a model; one of bert-large'),
    ],
)
def test_what_does_not_go_together_is_one_line_with_what_to_write(
    arguments: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["triton-stack", "model", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert line in said


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["build", "bert-small", "--calibration-data", "no-such-folder"], "'--calibration-data'"),
        (["bench", "--seconds", "31"], "'--seconds'"),
    ],
)
def test_an_option_that_cannot_be_is_refused(arguments: list[str], option: str) -> None:
    refused = CliRunner().invoke(app, ["model", *arguments], env={"COLUMNS": "200"})
    assert refused.exit_code == 2
    assert f"Invalid value for {option}" in refused.output


class _Environment(LocalCloud):
    """A local cloud in a place that a shell would split and expand."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"), Ports(), t4_nodes=0)

    def environment(self) -> dict[str, str]:
        return {"PATH": "/a b:/c", "KUBECONFIG": "/it's/$HOME"}


def test_a_shell_gets_every_value_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "local_cloud", _Environment)
    printed = CliRunner().invoke(app, ["env"]).stdout
    assert [shlex.split(line)[0] for line in printed.splitlines()] == ["export", "export"]
    shell = ["/bin/sh", "-c", 'eval "$1"; printf "%s|%s" "$PATH" "$KUBECONFIG"', "sh", printed]
    done = subprocess.run(shell, capture_output=True, text=True, check=True)
    assert done.stdout == "/a b:/c|/it's/$HOME"
    assert json.loads(CliRunner().invoke(app, ["env", "--json"]).stdout) == _Environment().environment()


def test_the_table_of_targets_has_a_row_a_target_with_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    show_status(
        [STATUS], [Answer(target="sagemaker", protocol="invoke_endpoint", latency_ms=12.3, outputs={})], as_json=False
    )
    header, row, *inference = capsys.readouterr().out.splitlines()
    for column in (
        "target",
        "endpoint",
        "model",
        "variant",
        "digest",
        "type",
        "min/now/max",
        "target per min",
        "$/hour",
    ):
        assert column in header
    assert row.split() == [
        "sagemaker",
        "triton-dev-4cce0e5",
        "bert-large",
        "trt-db",
        "0123456789ab",
        "ml.g4dn.2xlarge",
        "1/2/3",
        "934.5",
        "1.88",
    ]
    assert "invoke_endpoint" in inference[-1]


def test_the_status_as_json_has_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    show_status([STATUS], [], as_json=True)
    (target,) = json.loads(capsys.readouterr().out)["targets"]
    assert target["digest"] == STATUS.digest
    assert TargetStatus(**target) == STATUS
