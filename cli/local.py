"""The local stack: up, down, status and its environment."""

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.status import show_status
from cli.steps import console, step
from delivery.smoke import PublishError, check_answer, publish, smoke
from delivery.stack import PROJECT_FOLDER, Stack, StackError
from delivery.status import target_statuses, wait_until_ready
from localcloud.cloud import LocalCloud, Ports
from localcloud.toolchain import find_or_build
from model_repo.build import build
from model_repo.exported import SEEDED_RANDOM
from model_repo.sample import reference_outputs, sample_inputs
from stacks.fleet import plan_fleet
from stacks.model import recipe
from stacks.settings import read_stack_file

STACK = "local"
STATE = PROJECT_FOLDER / ".local"

# As many as the plan's least: a pod more waits for a T4, as it would in a zone that has run out.
T4_NODES = 2

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def up(as_json: Json = False) -> None:
    """Start the local cloud, deploy both targets to it and send each an inference.

    Run it again at any time: what is there stays, what is missing comes.

    Examples: [bold]triton-stack up[/], [bold]triton-stack up --json | jq '.targets[].endpoint'[/]
    """
    bring_up(local_cloud(), as_json=as_json)


def bring_up(cloud: LocalCloud, config_file: Path | None = None, *, as_json: bool = False) -> None:
    """Bring up a local cloud and the local stack on it.

    Args:
        cloud: Where to.
        config_file: In place of `Pulumi.local.yaml`.
        as_json: Print what is served as JSON.
    """
    # What is wrong in the stack file is said before anything starts.
    settings = read_stack_file(config_file or PROJECT_FOLDER / f"Pulumi.{STACK}.yaml")
    plan_fleet(settings)
    asked = recipe(settings.model)
    with step("tools") as report:
        find_or_build(report)
    # An emulator that starts anew is empty. That is noted until an update has looked, however often one fails.
    unsure = cloud.state / "unsure"
    if not is_running(cloud):
        cloud.state.mkdir(parents=True, exist_ok=True)
        unsure.touch()
    # Before the model, which takes minutes the first time: a port that is in use is said at once.
    with step("local cloud") as report:
        cloud.up(report)
    with step(f"model {asked}") as report:
        artifact = build(asked, report)
    if artifact.manifest.weights == SEEDED_RANDOM:
        console.print("[yellow]![/] its weights are random: the hub could not be reached; answers mean nothing")
    os.environ.update(cloud.environment())
    stack = Stack(STACK, os.environ, config_file)
    stack.initialise()
    changes = stack.up(refresh=unsure.exists())
    unsure.unlink(missing_ok=True)
    outputs = stack.outputs()
    with step("endpoints answer"):
        wait_until_ready(outputs, PROJECT_FOLDER)
    with step("inference"):
        inputs = sample_inputs(asked.spec, batch_size=1)
        reference = reference_outputs(artifact.folder / artifact.name / "1" / "model.onnx", inputs)
        answers = [check_answer(answer, reference) for answer in smoke(outputs, asked.spec, inputs)]
    try:
        publish(outputs, answers)
    except PublishError as error:
        console.print(f"! {error}", markup=False)
    show_status(list(target_statuses(outputs, PROJECT_FOLDER)), answers, as_json=as_json)
    changed = sum(count for operation, count in changes.items() if operation != "same")
    console.print(f"{changed} resources changed" if changed else "unchanged", highlight=False)


def down() -> None:
    """Destroy the local stack, stop the local cloud and remove all that both left on this machine.

    Built tools and models stay in the cache.

    Example: [bold]triton-stack down[/]
    """
    take_down(local_cloud())


def take_down(cloud: LocalCloud, config_file: Path | None = None) -> None:
    """Destroy the local stack, stop its local cloud and remove its state.

    Args:
        cloud: What to take down.
        config_file: In place of `Pulumi.local.yaml`.
    """
    if not cloud.state.exists():
        console.print("nothing is up")
        return
    if is_running(cloud):
        os.environ.update(cloud.environment())
        stack = Stack(STACK, os.environ, config_file)
        try:
            if stack.exists():
                stack.destroy()
        except StackError as error:
            # What it could not destroy is in the emulators' memory, and goes with them.
            console.print(f"{error}; the local cloud is stopped all the same", markup=False)
    else:
        console.print("the local cloud is not running: what it held is gone with it")
    with step("stop the local cloud"):
        cloud.down()
        shutil.rmtree(cloud.state)


def status(as_json: Json = False) -> None:
    """Show the processes of the local cloud and what the local stack serves now.

    Example: [bold]triton-stack status --json | jq '.targets[].now_count'[/]
    """
    cloud = local_cloud()
    processes = cloud.status() if STATE.exists() else []
    if not processes:
        console.print("nothing is up; `triton-stack up` starts it")
        raise typer.Exit(1)
    if not as_json:
        table = Table("process", "state", "detail", box=None)
        for row in processes:
            table.add_row(*row)
        Console().print(table)
    if stopped := [name for name, state, _ in processes if state != "running"]:
        console.print(f"not running: {', '.join(stopped)}; `triton-stack up` starts it again", highlight=False)
        raise typer.Exit(1)
    os.environ.update(cloud.environment())
    stack = Stack(STACK, os.environ)
    if stack.exists():
        show_status(list(target_statuses(stack.outputs(), PROJECT_FOLDER)), [], as_json=as_json)


def env(as_json: Json = False) -> None:
    """Print what puts pulumi, kubectl and triton-stack, set for the local stack, into a shell.

    Example: [bold]eval "$(triton-stack env)" && pulumi stack --stack local[/]
    """
    environment = local_cloud().environment()
    if as_json:
        print(json.dumps(environment, indent=2))
        return
    for name, value in environment.items():
        print(f"export {name}={shlex.quote(value)}")


def is_running(cloud: LocalCloud) -> bool:
    """Whether every process of a local cloud runs and answers."""
    processes = cloud.status()
    return bool(processes) and all(state == "running" for _, state, _ in processes)


def local_cloud() -> LocalCloud:
    """The local cloud of this checkout."""
    return LocalCloud(STATE, Ports(), t4_nodes=T4_NODES)
