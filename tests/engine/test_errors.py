"""What a user sees of what goes wrong: the reason and what to do, and never a traceback."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from delivery.stack import PROJECT_FOLDER, Stack
from localcloud.cloud import LocalCloud, Ports

# The command line, on a local cloud and with a stack file that are not the user's.
COMMAND = """
import json, sys
from pathlib import Path
import typer
from cli import local, main, stack
from localcloud.cloud import LocalCloud, Ports
command, state, file, ports = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
cloud = LocalCloud(state, Ports(*ports), t4_nodes=2, triton=False)
local.STATE, local.local_cloud, stack.PROJECT_FOLDER = state, lambda: cloud, file.parent
commands = {
    "up": lambda: local.bring_up(cloud, file),
    "down": lambda: local.take_down(cloud, file),
    "status": local.status,
    "preview": lambda: stack.preview(file.name.split(".")[1]),
}
main.app = typer.Typer(pretty_exceptions_enable=False)
main.app.command()(commands[command])
sys.argv[1:] = []
main.main()
"""


@dataclass
class CommandLine:
    """`triton-stack` on a local cloud of its own."""

    state: Path
    file: Path
    ports: Ports = field(default_factory=Ports.free)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def start(self, command: str) -> "subprocess.Popen[str]":
        arguments = [command, str(self.state), str(self.file), json.dumps(astuple(self.ports))]
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=PROJECT_FOLDER,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Return the exit status, and all that was said."""
        process = self.start(command)
        said, _ = process.communicate(timeout=120)
        assert "Traceback" not in said
        return process.returncode, said

    def errors(self, command: str) -> list[str]:
        """Return the lines that a command which fails says of it."""
        status, said = self.run(command)
        assert status == 1, said
        return [line.removeprefix("error: ") for line in said.splitlines() if line.startswith("error: ")]


def runs(pid: int) -> bool:
    """Say whether a process has not ended; of one that has, its parent may yet have to take note."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def local_settings() -> dict[str, Any]:
    return yaml.safe_load((PROJECT_FOLDER / "Pulumi.local.yaml").read_text())["config"]


@pytest.fixture
def command_line(tmp_path: Path) -> Iterator[CommandLine]:
    """With the local stack's settings, on servers of its own, of which none outlives a test that fails."""
    line = CommandLine(tmp_path / "state", tmp_path / "Pulumi.local.yaml")
    text = (PROJECT_FOLDER / "Pulumi.local.yaml").read_text()
    defaults = Ports()
    for default, own in ((defaults.aws, line.ports.aws), (defaults.gcs, line.ports.gcs)):
        text = text.replace(str(default), str(own))
    line.file.write_text(text.replace(".local/kubeconfig", str(line.state / "kubeconfig")))
    yield line
    if line.state.exists():
        line.run("down")


# --- `pulumi preview` -------------------------------------------------------------------------------------------------

Preview = Callable[..., str]


@pytest.fixture
def failed_preview(cloud: LocalCloud, tmp_path: Path) -> Preview:
    """Run the real `pulumi preview` of the local stack with a stack file; return what it says, nothing registered."""

    def preview(content: str, **environment: str) -> str:
        file = tmp_path / "Pulumi.local.yaml"
        file.write_text(content)
        whole = os.environ | cloud.environment() | {"PULUMI_BACKEND_URL": tmp_path.as_uri()}
        Stack("local", whole).initialise()
        done = subprocess.run(
            ["pulumi", "preview", "--non-interactive", "--stack=local", f"--config-file={file}"],
            cwd=PROJECT_FOLDER,
            env=whole | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode
        assert "Traceback" not in said
        created = [line for line in said.splitlines() if line.lstrip().startswith("+")]
        assert not [line for line in created if "pulumi:pulumi:Stack" not in line and " to create" not in line]
        return said

    return preview


def test_wrong_settings_are_a_line_each_and_nothing_is_registered(failed_preview: Preview) -> None:
    config = local_settings()
    config["triton-stack:sagemaker"]["instance_type"] = "ml.g4dn.3xlarge"
    config["triton-stack:slo"] = {"latency": 500}
    config["triton-stack:traffic"]["peak_rps"] = -1
    del config["triton-stack:capacity"]
    said = failed_preview(yaml.safe_dump({"config": config}))
    lines = [line.strip().removeprefix("error: ") for line in said.splitlines()]
    for expected in (
        'triton-stack:sagemaker.instance_type: "ml.g4dn.3xlarge" is not a g4dn type; one of ml.g4dn.xlarge, ',
        "triton-stack:slo.latency: unknown key; known here: latency_ms",
        "triton-stack:slo.latency_ms: missing; write e.g. 500",
        "triton-stack:traffic.peak_rps: -1 should be greater than 0; write e.g. 500",
        "triton-stack:capacity: missing; write its keys: measurements, headroom, safety_factor",
    ):
        assert [line for line in lines if line.startswith(expected)]


def test_a_stack_with_both_targets_off_says_so(failed_preview: Preview) -> None:
    config = local_settings()
    config["triton-stack:sagemaker"]["enabled"] = config["triton-stack:gke"]["enabled"] = False
    said = failed_preview(yaml.safe_dump({"config": config}))
    assert "triton-stack:sagemaker.enabled and gke.enabled are both false" in said


def test_a_model_that_is_not_built_names_the_command_that_builds_it(failed_preview: Preview, tmp_path: Path) -> None:
    said = failed_preview(yaml.safe_dump({"config": local_settings()}), TRITON_STACK_CACHE=str(tmp_path / "empty"))
    assert "triton-stack model build bert-small" in said


def test_unreadable_yaml_is_pulumi_s_own_error(failed_preview: Preview) -> None:
    assert "invalid YAML file: yaml: line 1: " in failed_preview("config: {unclosed\n")


# --- `triton-stack` ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["up", "preview"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("config: {unclosed\n", "Pulumi.local.yaml: cannot be read: "),
        ("settings: {}\n", "Pulumi.local.yaml: has no `config:`; "),
        ("config: {}\n", "triton-stack:model: missing; write its keys: name, "),
    ],
)
def test_an_unreadable_stack_file_is_said_before_anything_starts(
    command: str, content: str, said: str, command_line: CommandLine
) -> None:
    command_line.file.write_text(content)
    errors = command_line.errors(command)
    assert [line for line in errors if line.startswith(said)]
    assert not command_line.state.exists()


def test_a_stack_that_is_not_there_names_those_that_are() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "triton-stack"), "preview", "nosuch"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith('error: "nosuch" has no stack file; one of dev, local, prod, or write Pulumi.nosuch')


def test_a_port_in_use_names_the_port_and_its_holder_and_what_to_do(command_line: CommandLine) -> None:
    port = command_line.ports.aws
    with socket.create_server(("127.0.0.1", port)):
        (error,) = command_line.errors("up")
    assert error.startswith(f"port {port} on 127.0.0.1, which aws needs, is in use by process {os.getpid()} ")
    assert "stop that process" in error
    status, said = command_line.run("down")
    assert status == 0, said
    assert not command_line.state.exists()


def test_a_tool_that_cannot_be_built_names_itself_the_command_and_the_log(
    command_line: CommandLine, tmp_path: Path
) -> None:
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text('#!/bin/sh\n[ "$1" = env ] && echo go99.0 || { echo "no space left on device" >&2; exit 3; }\n')
    go.chmod(0o755)
    command_line.environment |= {
        "PATH": f"{go.parent}{os.pathsep}{os.environ['PATH']}",
        "TRITON_STACK_CACHE": str(tmp_path / "empty"),
    }
    errors = command_line.errors("up")
    assert errors[0].endswith("the build failed (exit code 3)")
    assert "no space left on device" in errors
    assert errors[-2].startswith("command: cd ")
    assert errors[-1].startswith(f"log: {tmp_path}")


def test_an_interrupted_up_lets_pulumi_end_and_what_died_then_is_named_and_down_clears_up(
    command_line: CommandLine,
) -> None:
    backend = command_line.state / "pulumi" / ".pulumi"
    up = command_line.start("up")
    deadline = time.monotonic() + 100
    while not list(backend.glob("locks/**/*.json")):
        assert up.poll() is None, up.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(up.pid, signal.SIGINT)
    said, _ = up.communicate(timeout=60)
    assert up.returncode == 130, said
    assert "Traceback" not in said
    assert "interrupted; the same command continues, `triton-stack down` clears up" in said
    assert not list(backend.glob("locks/**/*.json"))

    pids = {file.stem: json.loads(file.read_text())["pid"] for file in command_line.state.glob("pids/*.json")}
    killed = psutil.Process(pids["gcs"])
    killed.kill()
    killed.wait()
    status, said = command_line.run("status")
    assert status == 1
    assert [line.split()[:2] for line in said.splitlines() if line.strip().startswith("gcs ")] == [["gcs", "stopped"]]
    assert "`triton-stack up` starts it again" in said

    status, said = command_line.run("down")
    assert status == 0, said
    assert not [name for name, pid in pids.items() if runs(pid)]
    assert not command_line.state.exists()
