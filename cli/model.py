"""Models: what there is, and what is built on this machine."""

import json
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table

from cli.model_bench import bench
from cli.model_export import CalibrationFolder, export
from cli.steps import step
from model_repo.build import ModelArtifact, NotBuilt, build, built
from model_repo.recipe import Recipe, named_recipe
from model_repo.spec import load_spec, spec_names
from model_repo.variant import VARIANTS, Device, parse_variant

_DEVICES: tuple[Device, ...] = get_args(Device)

app = typer.Typer(no_args_is_help=True, help="Models: list them, build them, measure them.")


@app.command(name="list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False) -> None:
    """List the models, their variants that are built on this machine, and those repositories' digests.

    Example: [bold]triton-stack model list --json[/]
    """
    rows = [(name, artifact) for name in spec_names() for artifact in _built(name)]
    if as_json:
        listed = [{"model": name, "built": [_fields(a) for n, a in rows if n == name]} for name in spec_names()]
        print(json.dumps(listed, indent=2))
        return
    table = Table("model", "variant", "device", "digest", "MB", "weights", box=None, header_style="bold")
    for name in spec_names():
        for artifact in [a for n, a in rows if n == name]:
            manifest = artifact.manifest
            megabytes = f"{manifest.size_bytes / 1e6:.1f}"
            table.add_row(name, manifest.variant, manifest.device, artifact.digest[:12], megabytes, manifest.weights)
        if not any(n == name for n, _ in rows):
            table.add_row(name, "[dim]not built[/]")
    Console().print(table)


@app.command(name="build")
def build_model(
    name: Annotated[str, typer.Argument(help="Name of a spec in model_repo/models/.")],
    variant: Annotated[str, typer.Option(help="One of pt-base … trt-ig-db.")] = "trt-db",
    device: Annotated[str, typer.Option(help="cpu, or t4.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    calibration_data: CalibrationFolder = None,
) -> None:
    """Export a model and make its repository, unless that is there already; print its digest.

    Example: [bold]triton-stack model build resnet50 --variant trt-ig-db[/]
    """
    recipe = named_recipe(name, variant, precision, device, calibration_data)
    with step(f"model {recipe}") as report:
        artifact = build(recipe, report)
    print(artifact.digest)


def _built(name: str) -> list[ModelArtifact]:
    found: list[ModelArtifact] = []
    for variant in VARIANTS:
        for device in _DEVICES:
            try:
                found.append(built(Recipe(load_spec(name), parse_variant(variant), "fp32", device)))
            except NotBuilt:
                continue
    return found


def _fields(artifact: ModelArtifact) -> dict[str, object]:
    return {
        "variant": artifact.manifest.variant,
        "precision": artifact.manifest.precision,
        "device": artifact.manifest.device,
        "digest": artifact.digest,
        "size_bytes": artifact.manifest.size_bytes,
        "weights": artifact.manifest.weights,
    }


app.command(name="export")(export)
app.command(name="bench")(bench)
