"""What moves repositories to and between stores: publish, copy, verify, prune, archive."""

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from cli.steps import console, step
from cli.transfer import transfer
from delivery.stack import PROJECT_FOLDER, Stack
from model_repo import publish as store_publish
from model_repo.archive import write_archive
from model_repo.build import ModelArtifact, built
from model_repo.prune import Pruning, plan_pruning
from model_repo.prune import prune as remove
from model_repo.publish import Published, stored_manifest
from model_repo.recipe import named_recipe
from model_repo.store import Store, open_store
from stacks.settings import read_stack_file

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Name = Annotated[str, typer.Argument(help="Name of a spec in model_repo/models/.")]
Digest = Annotated[str, typer.Argument(help="The repository's digest, 64 hexadecimal digits.")]
VariantOption = Annotated[str, typer.Option("--variant", help="One of pt-base … trt-ig-db.")]
PrecisionOption = Annotated[str, typer.Option("--precision", help="fp32, fp16 or int8.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, or t4.")]


def publish(
    name: Name,
    to: Annotated[list[str], typer.Option("--to", help="A store, s3://BUCKET or gs://BUCKET; give it again for more.")],
    variant: VariantOption = "trt-db",
    precision: PrecisionOption = "fp32",
    device: DeviceOption = "cpu",
    verify: Annotated[bool, typer.Option("--verify", help="Read it back from the store and hash it.")] = False,
    as_json: Json = False,
) -> None:
    """Send a built repository to one or more stores, its manifest last; nothing is ever overwritten.

    The same command continues one that was interrupted, and says at once when there is nothing to do.

    Example: [bold]triton-stack model publish resnet50 --to s3://models --to gs://models[/]
    """
    artifact = built(named_recipe(name, variant, precision, device))
    manifest = artifact.manifest
    published: list[Published] = []
    for store in map(open_store, to):
        with _continued(), transfer(f"publish {name} to {store.url}", manifest.size_bytes) as progress:
            published.append(store_publish.publish(artifact.folder, manifest, store, progress))
        if verify:
            _verify(store, name, artifact.digest)
    _show(published, as_json=as_json)


def copy(
    name: Name,
    digest: Digest,
    source: Annotated[str, typer.Option("--from", help="The store that has it: s3://BUCKET or gs://BUCKET.")],
    to: Annotated[str, typer.Option("--to", help="The store that is to have it.")],
    as_json: Json = False,
) -> None:
    """Copy a published repository to another store, hashed on its way; no byte lands on this machine's disk.

    Example: [bold]triton-stack model copy bert-large 3f2a… --from s3://dev-models --to gs://prod-models[/]
    """
    source_store, target = open_store(source), open_store(to)
    size_bytes = stored_manifest(source_store, name, digest).size_bytes
    with _continued(), transfer(f"copy {name} to {target.url}", size_bytes) as progress:
        copied = store_publish.copy(name, digest, source_store, target, progress)
    _show([copied], as_json=as_json)


def verify(
    name: Name,
    digest: Digest,
    store: Annotated[str, typer.Argument(help="s3://BUCKET or gs://BUCKET.")],
) -> None:
    """Read a published repository back and compare every byte with its manifest.

    Example: [bold]triton-stack model verify bert-large 3f2a… s3://models[/]
    """
    _verify(open_store(store), name, digest)


def prune(
    store: Annotated[str, typer.Argument(help="s3://BUCKET or gs://BUCKET.")],
    name: Annotated[str | None, typer.Option(help="Only this model's repositories.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="A digest that stays; give it again for more.")
    ] = None,
    older_than: Annotated[float, typer.Option(min=0, help="Hours since it was last written to.")] = 24,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove repositories that no stack names, halves of them, and what interrupted uploads left behind.

    A digest that a stack of this project serves is never removed: one that Pulumi.<stack>.yaml names, or where it names
    none, one that the stack has in the backend that `pulumi` is logged in to.

    Example: [bold]triton-stack model prune s3://models --dry-run[/]
    """
    opened, before = open_store(store), datetime.now(UTC) - timedelta(hours=older_than)
    pruning = plan_pruning(opened, {*(keep or []), *_served_digests()}, before, name)
    if as_json:
        print(json.dumps(asdict(pruning), indent=2, default=str))
    else:
        _show_pruning(pruning)
    if dry_run or pruning.is_empty:
        return
    if not yes:
        typer.confirm(f"Remove it from {opened.url}?", abort=True, err=True)
    with step(f"prune {opened.url}"):
        remove(opened, pruning)


def archive(
    name: Name,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("model.tar.gz"),
    variant: VariantOption = "trt-db",
    precision: PrecisionOption = "fp32",
    device: DeviceOption = "cpu",
) -> None:
    """Write a built repository as one reproducible model.tar.gz, for SageMaker's ModelDataUrl.

    Example: [bold]triton-stack model archive resnet50 --output resnet50.tar.gz[/]
    """
    artifact: ModelArtifact = built(named_recipe(name, variant, precision, device))
    with step(f"archive {name}"):
        write_archive(artifact.folder, artifact.manifest, output)


def _verify(store: Store, name: str, digest: str) -> None:
    size_bytes = stored_manifest(store, name, digest).size_bytes
    with transfer(f"verify {name} in {store.url}", size_bytes) as progress:
        differences = store_publish.verify(store, name, digest, progress)
    if differences:
        raise store_publish.PublishError("\n".join(f"{store.url}: {line}" for line in differences))


def _served_digests() -> set[str]:
    """What the project's stacks name: in their files, or where a file leaves it open, in their outputs.

    A file that cannot be read, or a stack that cannot be asked, stops what would remove what it serves.
    """
    digests: set[str] = set()
    for file in sorted(PROJECT_FOLDER.glob("Pulumi.*.yaml")):
        named = read_stack_file(file).model.digest
        digests |= {named} if named else _deployed_digests(Stack(file.stem.removeprefix("Pulumi."), os.environ))
    return digests


def _deployed_digests(stack: Stack) -> set[str]:
    outputs = stack.outputs() if stack.exists() else {}
    targets: list[dict[str, Any] | None] = [outputs.get("sagemaker"), *outputs.get("gke", [])]
    return {target["digest"] for target in targets if target}


def _show(published: list[Published], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(one) for one in published], indent=2))
        return
    for one in published:
        print(one.uri)


def _show_pruning(pruning: Pruning) -> None:
    table = Table("what", "where", "size", "last written", box=None, header_style="bold")
    for found in pruning.repositories:
        what = "repository" if found.complete else "half a repository"
        table.add_row(what, f"{found.name} {found.digest[:12]}", decimal(found.size_bytes), f"{found.modified:%F %T}")
    for key in pruning.pointers:
        table.add_row("engine's name", key)
    for upload in pruning.uploads:
        table.add_row("unfinished upload", upload.key, "", f"{upload.started:%F %T}")
    Console().print("nothing to remove" if pruning.is_empty else table)


@contextmanager
def _continued() -> Generator[None]:
    """Say what an interrupt leaves."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("interrupted: what is sent stays; the same command continues")
        raise
