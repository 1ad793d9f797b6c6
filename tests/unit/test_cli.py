"""The command line's own part: help, and what it prints for a person, a shell and a script."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from cli import local, model
from cli.main import app
from cli.status import show_status
from delivery.smoke import Answer
from delivery.status import TargetStatus
from localcloud.cloud import LocalCloud, Ports
from model_repo.spec import spec_names

GROUP = typer.main.get_group(app)
STORE_COMMANDS = [["model", name] for name in ("publish", "copy", "verify", "prune", "archive")]
COMMANDS = [["up"], ["down"], ["status"], ["env"], ["preview"], ["model", "list"], ["model", "build"], *STORE_COMMANDS]
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
    groups = {"model": typer.main.get_group(model.app)}
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


def test_an_unknown_device_names_the_known_ones() -> None:
    refused = CliRunner().invoke(app, ["model", "build", "bert-small", "--device", "a100"])
    assert refused.exit_code == 2
    assert '"a100" is not a device; one of' in refused.output


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
