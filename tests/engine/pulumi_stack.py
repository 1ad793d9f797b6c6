"""A Pulumi stack of a small program, driven by the real CLI."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PROGRAMS = Path(__file__).parent / "programs"


class PulumiError(RuntimeError):
    """The CLI failed; the text is what it printed."""


@dataclass
class Stack:
    """One stack of a small program, with a copy of the program, a backend and an environment of its own."""

    folder: Path
    environment: dict[str, str]

    def pulumi(self, *arguments: str) -> str:
        """Run the CLI and return its standard output."""
        done = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"],
            cwd=self.folder,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise PulumiError(done.stdout + done.stderr)
        return done.stdout

    def configure(self, **settings: object) -> None:
        """Add settings of the program or, with `__` for `:`, of a provider; None takes one away."""
        file = self.folder / "Pulumi.test.yaml"
        content: dict[str, Any] = yaml.safe_load(file.read_text())
        project = yaml.safe_load((self.folder / "Pulumi.yaml").read_text())["name"]
        for key, value in settings.items():
            name = key.replace("__", ":") if "__" in key else f"{project}:{key}"
            content["config"][name] = value
        content["config"] = {key: value for key, value in content["config"].items() if value is not None}
        file.write_text(yaml.safe_dump(content))

    def preview(self) -> list[dict[str, Any]]:
        """Return the steps that a preview shows, those that change nothing left out."""
        steps: list[dict[str, Any]] = json.loads(self.pulumi("preview", "--json"))["steps"]
        return [step for step in steps if step["op"] not in ("same", "read")]

    def operations(self) -> dict[str, str]:
        """Return what a preview would do to which resource: name → operation."""
        return {step["urn"].rpartition("::")[2]: step["op"] for step in self.preview()}

    def up(self) -> dict[str, Any]:
        """Update, without a preview before it, and return the outputs."""
        self.pulumi("up", "--yes", "--skip-preview", "--suppress-outputs")
        return self.outputs()

    def outputs(self) -> dict[str, Any]:
        """Return the outputs, secrets shown."""
        return json.loads(self.pulumi("stack", "output", "--json", "--show-secrets"))

    def refresh(self) -> str:
        """Refresh and return what the CLI says of it."""
        return self.pulumi("refresh", "--yes", "--skip-preview", "--diff")

    def destroy(self) -> None:
        """Destroy everything."""
        self.pulumi("destroy", "--yes", "--skip-preview")

    def resources(self) -> dict[str, dict[str, Any]]:
        """Return the state: name → resource."""
        state = json.loads(self.pulumi("stack", "export"))["deployment"].get("resources", [])
        return {each["urn"].rpartition("::")[2]: each for each in state if each["type"] != "pulumi:pulumi:Stack"}

    @classmethod
    def of_program(cls, program: str, folder: Path, environment: dict[str, str]) -> "Stack":
        """Make a stack of a copy of `programs/NAME`, with a backend of its own, inside a folder."""
        shutil.copytree(PROGRAMS / program, folder / "program")
        backend = folder / "backend"
        backend.mkdir()
        stack = cls(folder / "program", environment | {"PULUMI_BACKEND_URL": backend.as_uri()})
        stack.pulumi("stack", "init", "test")
        with (folder / "program" / "Pulumi.test.yaml").open("a") as settings:
            settings.write("config: {}\n")
        return stack
