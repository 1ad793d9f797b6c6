"""What the command line says of engines, with no cloud and no GPU."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from program import ROOT

from cli.engine import check, dry_run
from model_repo.compatibility import triton_releases
from model_repo.engine import EngineError, build_key
from model_repo.exported import ExportedModel
from model_repo.manifest import ManifestFile
from model_repo.recipe import named_recipe
from stacks.settings import SettingsError

NEWEST = triton_releases()["25.09"]
BERT = named_recipe("bert-large", "trt-ig-db", "fp16", "t4")
ONNX = ManifestFile(path="model.onnx", size_bytes=1, sha256="0" * 64)
EXPORTED = ExportedModel(weights="hub@1", parity_error=0, files=(ONNX,))

Captured = pytest.CaptureFixture[str]


def stack_file(folder: Path, monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """A copy of the dev stack's file with another release."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "Pulumi.dev.yaml").read_text())
    content["config"]["triton-stack:triton"]["release"] = release
    (folder / "Pulumi.mine.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr("cli.engine.PROJECT_FOLDER", folder)


def test_a_dry_run_says_the_key_the_line_and_where_it_would_run(capsys: Captured) -> None:
    dry_run(BERT, NEWEST, EXPORTED, as_json=False)
    said = capsys.readouterr().out
    assert f"build key  {build_key(BERT, EXPORTED.sha256, NEWEST)}\n" in said
    assert "command    trtexec --onnx=model.onnx --saveEngine=model.plan --fp16 --minShapes=" in said
    assert (
        "needs a T4: will run as SageMaker processing job on ml.g4dn.xlarge | "
        "Kubernetes Job on a GKE node with nvidia-tesla-t4\n" in said
    )


def test_where_nothing_was_exported_a_dry_run_says_which_command_makes_the_key_known(capsys: Captured) -> None:
    dry_run(BERT, NEWEST, None, as_json=False)
    assert (
        "build key  not known yet: nothing was exported on this machine; `triton-stack model build bert-large --variant"
        in (capsys.readouterr().out)
    )
    dry_run(BERT, NEWEST, None, as_json=True)
    plan = json.loads(capsys.readouterr().out)
    assert plan["key"] is None
    assert plan["command"][0] == "trtexec"
    assert plan["tensorrt"] == "10.13.3.9"


def test_a_dry_run_of_what_is_not_compiled_is_refused() -> None:
    with pytest.raises(EngineError, match=r"write a trt-\* variant and device t4"):
        dry_run(named_recipe("bert-large", "trt-db"), NEWEST, None, as_json=False)


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_the_shipped_stacks_go_together(stack: str, capsys: Captured) -> None:
    check(stack, as_json=True)
    findings = json.loads(capsys.readouterr().out)
    assert {finding["what"].partition(" ")[0] for finding in findings} == {"SageMaker", "GKE"}
    assert all(finding["ok"] for finding in findings)


def test_a_stack_that_serves_on_cpus_has_nothing_to_check(capsys: Captured) -> None:
    check("local")
    assert "nothing to check" in capsys.readouterr().out


def test_every_release_of_the_table_can_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    for release in triton_releases():
        stack_file(tmp_path, monkeypatch, release)
        check("mine")
        assert "✗" not in capsys.readouterr().out


def test_what_does_not_go_together_is_shown_with_its_fix_and_ends_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    stack_file(tmp_path, monkeypatch, "25.09")
    monkeypatch.setattr("stacks.compatibility.GPU_DRIVER_VERSION", "DEFAULT")
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(typer.Exit) as ended:
        check("mine")
    assert ended.value.exit_code == 1
    said = capsys.readouterr().out
    assert said.count("✗") == 1
    assert "use gpuDriverVersion LATEST" in said


def test_a_stack_without_a_file_is_told() -> None:
    with pytest.raises(SettingsError, match=r'"nowhere" has no stack file'):
        check("nowhere")
