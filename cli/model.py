"""Models: what there is, how it would be served, and what is built on this machine."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli import engine, store
from cli.model_bench import bench
from cli.model_export import CalibrationFolder, export
from cli.steps import step
from model_repo.build import ModelArtifact, build, repositories
from model_repo.compatibility import named_release, triton_releases
from model_repo.conversion import Conversion
from model_repo.engine import prepare_engine
from model_repo.memory import CONTEXT_BYTES, T4_BYTES
from model_repo.placement import Placement, load_placement, needed_bytes, placement_files, placement_names, shares
from model_repo.recipe import named_recipe
from model_repo.spec import ModelSpec, load_spec, spec_names
from model_repo.tree import configuration_files
from model_repo.variant import VARIANTS

app = typer.Typer(no_args_is_help=True, help="Models: list them, show how they would be served, build them.")

Name = Annotated[str, typer.Argument(help="Name of a spec in model_repo/models/.")]
VariantName = Annotated[str, typer.Option("--variant", help="One of pt-base … trt-ig-db.")]
PrecisionName = Annotated[str, typer.Option("--precision", help="fp32, fp16 (T4) or int8 (trt variants).")]
DeviceName = Annotated[str, typer.Option("--device", help="cpu, or t4.")]
Out = Annotated[Path | None, typer.Option(help="Write the repository there too, without weights.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
PreferredBatchSizes = Annotated[
    list[int] | None,
    typer.Option("--preferred-batch-size", help="Batch that dynamic batching sends at once; may be repeated."),
]
QueueDelay = Annotated[
    int | None,
    typer.Option("--max-queue-delay-microseconds", help="How long dynamic batching waits for a preferred batch."),
]
Instances = Annotated[int | None, typer.Option("--instances", help="Copies on each GPU, of an ig variant.")]
Warmup = Annotated[bool, typer.Option("--warmup/--no-warmup", help="Run the spec's first batches before ready.")]
ResponseCache = Annotated[bool, typer.Option("--response-cache", help="Answer equal requests from the cache.")]
Ensemble = Annotated[bool, typer.Option("--ensemble", help="Text or an image in, classes out.")]


@app.command(name="list")
def list_models(as_json: Json = False) -> None:
    """List the models and their repositories that are built on this machine.

    Example: [bold]triton-stack model list --json[/]
    """
    artifacts = repositories()
    if as_json:
        listed = [{"model": name, "built": _built(artifacts, name)} for name in spec_names()]
        print(json.dumps(listed, indent=2))
        return
    table = Table("model", "variant", "precision", "device", "digest", "MB", "weights", box=None, header_style="bold")
    for name in spec_names():
        for fields in _built(artifacts, name):
            digest, megabytes = fields["digest"][:12], f"{fields['size_bytes'] / 1e6:.1f}"
            served = (fields[key] for key in ("variant", "precision", "device"))
            table.add_row(name, *served, digest, megabytes, fields["weights"])
        if not _built(artifacts, name):
            table.add_row(name, "[dim]not built[/]")
    Console().print(table)


@app.command(name="show")
def show_model(name: Name, as_json: Json = False) -> None:
    """Show a model: its spec, its tensors, what it takes of a T4 in each placement, and what is built of it.

    Example: [bold]triton-stack model show bert-large[/]
    """
    spec = load_spec(name)
    memory = [fields for placement in placement_names() for fields in _memory(load_placement(placement), name)]
    artifacts = _built(repositories(), name)
    if as_json:
        shown = {"spec": spec.model_dump(mode="json"), "variants": list(VARIANTS), "memory": memory, "built": artifacts}
        print(json.dumps(shown, indent=2))
        return
    console = Console()
    console.print(_summary(spec))
    console.print(_table(["placement", "gpu", "instances", "weights GB", "workspace GB", "GPU GB", "of GB"], memory))
    console.print(_table(["variant", "precision", "device", "digest", "MB", "weights"], artifacts))


@app.command(name="render")
def render_model(
    name: Name,
    variant: VariantName = "trt-db",
    precision: PrecisionName = "fp32",
    device: DeviceName = "t4",
    out: Out = None,
    preferred_batch_sizes: PreferredBatchSizes = None,
    max_queue_delay_microseconds: QueueDelay = None,
    instances: Instances = None,
    warmup: Warmup = True,
    response_cache: ResponseCache = False,
    ensemble: Ensemble = False,
) -> None:
    """Print the config.pbtxt of a model.

    Example: [bold]triton-stack model render bert-large --variant trt-ig-db --preferred-batch-size 16 --instances 4[/]
    """
    options = _serving(preferred_batch_sizes, max_queue_delay_microseconds, instances, warmup, response_cache, ensemble)
    _write(configuration_files(named_recipe(name, variant, precision, device, options)), out)


@app.command(name="place")
def place_models(
    name: Annotated[str, typer.Argument(help="Name of a placement in model_repo/placements/.")], out: Out = None
) -> None:
    """Print the config.pbtxt of every model of a placement, unless a T4 has no memory for it.

    Example: [bold]triton-stack model place c --out repository[/]
    """
    _write(placement_files(load_placement(name)), out)


@app.command(name="build")
def build_model(
    name: Name,
    variant: VariantName = "trt-db",
    precision: PrecisionName = "fp32",
    device: Annotated[
        str | None, typer.Option(help="cpu or t4. Left out: t4 in FP16 and for a dry run, else cpu.")
    ] = None,
    calibration_data: CalibrationFolder = None,
    preferred_batch_sizes: PreferredBatchSizes = None,
    max_queue_delay_microseconds: QueueDelay = None,
    instances: Instances = None,
    warmup: Warmup = True,
    response_cache: ResponseCache = False,
    ensemble: Ensemble = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what a T4 would compile, and how.")] = False,
    release: Annotated[str, typer.Option(help="Triton release that an engine is for.")] = max(triton_releases()),
    as_json: Annotated[bool, typer.Option("--json", help="Print what would be compiled as JSON.")] = False,
) -> None:
    """Export a model and make its repository, unless that is there already; print its digest.

    For a TensorRT engine it makes all that a T4 compiles it from, and says how: `pulumi up` compiles it, there.

    Example: [bold]triton-stack model build resnet50 --variant trt-ig-db --instances 4 --ensemble[/]

    Example: [bold]triton-stack model build bert-large --variant trt-ig-db --precision fp16 --dry-run[/]
    """
    options = _serving(preferred_batch_sizes, max_queue_delay_microseconds, instances, warmup, response_cache, ensemble)
    on = device or ("t4" if dry_run or precision == "fp16" else "cpu")
    recipe = named_recipe(name, variant, precision, on, options, calibration_data)
    if not dry_run:
        with step(f"model {recipe}") as report:
            artifact = prepare_engine(recipe, report) if recipe.needs_engine else build(recipe, report)
        if not recipe.needs_engine:
            print(artifact.digest)
            return
    engine.dry_run(recipe, named_release(release), Conversion.of(recipe).find(), as_json=as_json)


def _write(files: dict[str, bytes], out: Path | None) -> None:
    for path, content in sorted(files.items()):
        if path.endswith(".pbtxt"):
            print(f"# {path}\n{content.decode()}")
        if out:
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes(content)


def _serving(
    preferred_batch_sizes: list[int] | None,
    max_queue_delay_microseconds: int | None,
    instances: int | None,
    warmup: bool,
    response_cache: bool,
    ensemble: bool,
) -> dict[str, object]:
    """The options that were given, by the names of ``Serving``'s fields."""
    given: dict[str, object] = {
        "preferred_batch_sizes": preferred_batch_sizes or None,
        "max_queue_delay_microseconds": max_queue_delay_microseconds,
        "instances": instances,
        "warmup": None if warmup else (),
        "response_cache": response_cache or None,
        "ensemble": ensemble or None,
    }
    return {field: value for field, value in given.items() if value is not None}


def _built(artifacts: list[ModelArtifact], name: str) -> list[dict[str, Any]]:
    return [
        {
            "variant": artifact.manifest.variant,
            "precision": artifact.manifest.precision,
            "device": artifact.manifest.device,
            "digest": artifact.digest,
            "size_bytes": artifact.manifest.size_bytes,
            "weights": artifact.manifest.weights,
        }
        for artifact in artifacts
        if artifact.name == name
    ]


def _memory(placement: Placement, name: str) -> list[dict[str, Any]]:
    """What the model takes of each GPU that it is on, beside what all that is there takes."""
    rows: list[dict[str, Any]] = []
    for gpu in range(placement.gpus):
        parts = shares(placement, gpu)
        rows += [
            {
                "placement": placement.name,
                "gpu": gpu,
                "instances": share.instances,
                "weights_bytes": share.instances * share.footprint.weights_bytes,
                "workspace_bytes": share.instances * share.footprint.workspace_bytes,
                "gpu_needed_bytes": needed_bytes(parts),
                "gpu_bytes": T4_BYTES,
            }
            for share in parts
            if share.model == name
        ]
    return rows


def _summary(spec: ModelSpec) -> str:
    tensors = [
        f"  {kind} {tensor.name} {tensor.dtype} {list(tensor.dims)}"
        for kind, each in (("input", spec.inputs), ("output", spec.outputs))
        for tensor in each
    ]
    profile = spec.profile
    return "\n".join(
        [
            f"[bold]{spec.name}[/]: {spec.description}",
            *tensors,
            f"  batches up to {spec.max_batch_size}; engine's profile {profile.min}, {profile.opt}, {profile.max}",
            f"  serving: {spec.serving.model_dump_json(exclude_defaults=True)}",
            f"  variants: {', '.join(VARIANTS)}",
            f"[dim]estimates for a T4, {CONTEXT_BYTES / 1e9:.0f} GB of each GPU for CUDA itself[/]",
        ]
    )


def _table(columns: list[str], rows: list[dict[str, Any]]) -> Table:
    """A row each, sizes in the unit that their column names."""
    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*(_cell(column, value) for column, value in zip(columns, row.values(), strict=True)))
    return table


def _cell(column: str, value: object) -> str:
    if isinstance(value, int) and column.endswith(("GB", "MB")):
        return f"{value / 1e9:.1f}" if column.endswith("GB") else f"{value / 1e6:.1f}"
    return str(value)[:12] if column == "digest" else str(value)


app.command()(engine.check)
app.command()(store.publish)
app.command()(store.copy)
app.command()(store.verify)
app.command()(store.prune)
app.command()(store.archive)
app.command()(export)
app.command()(bench)
