"""Engines: what would be built, and whether what a stack serves goes with what serves it."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from components.aws.engine_job import INSTANCE_TYPE
from components.gcp.gpu_cluster import ACCELERATOR
from delivery.stack import PROJECT_FOLDER
from model_repo.compatibility import TritonRelease
from model_repo.engine import build_key, trtexec_build_line
from model_repo.exported import ExportedModel
from model_repo.manifest import Engine
from model_repo.publish import stored_manifest
from model_repo.recipe import Recipe
from model_repo.store import open_store
from stacks.compatibility import stack_findings
from stacks.settings import ModelSettings, SettingsError, read_stack_file


def check(
    stack: Annotated[str, typer.Option(help="Name of a stack file, Pulumi.<stack>.yaml: dev, prod …")] = "dev",
    store: Annotated[
        str | None, typer.Option(help="s3://BUCKET or gs://BUCKET that has the stack's digest: compare its engine too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Check that the Triton release, the GPUs and the drivers of a stack go together; status 1 where they do not.

    With a store, the engine that the stack's digest names is held against all three. Without, it asks no cloud.

    Example: [bold]triton-stack model check --stack prod --store s3://models[/]
    """
    file = PROJECT_FOLDER / f"Pulumi.{stack}.yaml"
    if not file.exists():
        raise SettingsError(f'"{stack}" has no stack file; write Pulumi.{stack}.yaml, or name another stack')
    settings = read_stack_file(file)
    findings = stack_findings(settings, _stored_engine(settings.model, store) if store else None)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    elif not findings:
        print(f"{stack}: nothing to check: it serves on CPUs, or on a cluster of yours")
    else:
        table = Table("", "what", "found", "fix", box=None, header_style="bold")
        for finding in findings:
            mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
            table.add_row(mark, finding.what, finding.detail, finding.fix or "")
        Console().print(table)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _stored_engine(model: ModelSettings, store: str) -> Engine | None:
    if model.digest is None:
        raise SettingsError("triton-stack:model.digest: missing, so no engine is named; leave out --store")
    return stored_manifest(open_store(store), model.name, model.digest).engine


def dry_run(recipe: Recipe, release: TritonRelease, exported: ExportedModel | None, *, as_json: bool) -> None:
    """Print what building the engine of a recipe would do.

    Args:
        recipe: For a T4, of a TensorRT variant.
        release: The Triton that would serve it.
        exported: The ONNX file that it would be built from; None where nothing was exported on this machine.
        as_json: Print JSON for a script.

    Raises:
        model_repo.engine.EngineError: The recipe is not served by an engine.
    """
    line = trtexec_build_line(recipe)
    key = build_key(recipe, exported.sha256, release) if exported else None
    export = f"triton-stack model build {recipe.arguments}"
    runs_as = [f"SageMaker processing job on {INSTANCE_TYPE}", f"Kubernetes Job on a GKE node with {ACCELERATOR}"]
    if as_json:
        plan = {
            "recipe": str(recipe),
            "triton_release": release.name,
            "tensorrt": release.tensorrt,
            "onnx_sha256": exported.sha256 if exported else None,
            "key": key,
            "command": line,
            "runs_as": runs_as,
        }
        print(json.dumps(plan, indent=2))
        return
    print(f"build key  {key or f'not known yet: nothing was exported on this machine; `{export}` makes it known'}")
    print(f"TensorRT   {release.tensorrt}, of Triton {release.name}")
    print(f"command    {' '.join(line)}")
    print(f"needs a T4: will run as {' | '.join(runs_as)}")
