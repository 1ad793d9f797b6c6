"""Previews of the real stacks, with no account."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cli.local import local_cloud
from cli.steps import step
from delivery.stack import PROJECT_FOLDER, Stack
from localcloud.toolchain import find_or_build
from stacks.fleet import plan_fleet
from stacks.settings import SettingsError, read_stack_file


def preview(
    stack: Annotated[str, typer.Argument(help="Name of a stack file, Pulumi.<stack>.yaml: dev, prod …")],
    as_json: Annotated[bool, typer.Option("--json", help="Pulumi's own JSON, for a script.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Show every property.")] = False,
) -> None:
    """Preview a stack offline, as if nothing of it were there yet.

    It asks no cloud and changes nothing: not the backend that you are logged in to, and no file of the checkout.

    Examples: [bold]triton-stack preview dev[/], [bold]triton-stack preview prod --json[/]
    """
    file = PROJECT_FOLDER / f"Pulumi.{stack}.yaml"
    if not file.exists():
        known = ", ".join(sorted(path.name.split(".")[1] for path in PROJECT_FOLDER.glob("Pulumi.*.yaml")))
        raise SettingsError(f'"{stack}" has no stack file; one of {known}, or write Pulumi.{stack}.yaml')
    plan_fleet(read_stack_file(file))
    with step("tools") as report:
        find_or_build(report)
    with tempfile.TemporaryDirectory() as folder:
        # Pulumi notes a new stack's encryption salt in its stack file: in a copy of it.
        copy = Path(folder) / file.name
        copy.write_bytes(file.read_bytes())
        environment = {
            **os.environ,
            **local_cloud().environment(),
            "PULUMI_BACKEND_URL": Path(folder).as_uri(),
        }
        offline = Stack(stack, environment, config_file=copy)
        offline.initialise()
        offline.preview([*(["--json"] if as_json else []), *(["--diff"] if diff else [])])
