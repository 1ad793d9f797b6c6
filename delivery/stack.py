"""A stack, by the Pulumi CLI."""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT_FOLDER = Path(__file__).parents[1]


class StackError(RuntimeError):
    """A Pulumi command that failed; what it said stands above."""


@dataclass(frozen=True)
class Stack:
    """One stack of the project in one backend.

    Every command runs the `pulumi` that is first on the environment's PATH.
    """

    name: str
    environment: Mapping[str, str]
    """All of the process's environment: backend, passphrase and PATH among it."""
    config_file: Path | None = None
    """In place of `Pulumi.<name>.yaml`."""

    def exists(self) -> bool:
        """Whether the backend holds the stack."""
        stacks: list[dict[str, Any]] = json.loads(self._read("stack", "ls", "--json"))
        return any(stack["name"].split("/")[-1] == self.name for stack in stacks)

    def initialise(self) -> None:
        """Make the stack where the backend does not hold it yet.

        Pulumi writes the new stack's encryption salt into the stack file in its folder: that is a copy here, so that
        a committed file never changes by being previewed.
        """
        if self.exists():
            return
        with tempfile.TemporaryDirectory() as folder:
            for file in (f"Pulumi.{self.name}.yaml", "Pulumi.yaml"):
                if (PROJECT_FOLDER / file).exists():
                    (Path(folder) / file).write_bytes((PROJECT_FOLDER / file).read_bytes())
            self._read("stack", "init", self.name, "--no-select", "--cwd", folder)

    def up(self, *, refresh: bool = False) -> dict[str, int]:
        """Deploy, showing Pulumi's own progress; return how many resources had which operation (`same`, `create` …).

        Args:
            refresh: Look first at what is really there.
        """
        # With --yes nobody judges a preview, and it takes as long as an update that changes nothing.
        self._show("up", "--yes", "--skip-preview", *(["--refresh"] if refresh else []), *self._options())
        last: list[dict[str, Any]] = json.loads(
            self._read("stack", "history", "--json", "--page-size=1", "--stack", self.name)
        )
        return last[0].get("resourceChanges", {})

    def preview(self, options: Sequence[str] = ()) -> None:
        """Preview, showing Pulumi's own output."""
        self._show("preview", *options, *self._options())

    def destroy(self) -> None:
        """Destroy all resources, showing Pulumi's own progress. The stack itself and its stack file stay."""
        self._show("destroy", "--yes", "--skip-preview", *self._options())

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs."""
        return json.loads(self._read("stack", "output", "--json", "--stack", self.name))

    def _options(self) -> list[str]:
        return ["--stack", self.name, *(["--config-file", str(self.config_file)] if self.config_file else [])]

    def _show(self, *command: str) -> None:
        process = subprocess.Popen(["pulumi", *command], cwd=PROJECT_FOLDER, env=dict(self.environment))
        try:
            status = process.wait()
        except KeyboardInterrupt:
            # Ctrl-C reached Pulumi too: it ends what is under way and unlocks the stack, which killed it could not.
            process.wait()
            raise
        if status != 0:
            raise StackError(f"`pulumi {command[0]}` of stack {self.name} failed (status {status}); see above")

    def _read(self, *command: str) -> str:
        try:
            done = subprocess.run(
                ["pulumi", *command],
                cwd=PROJECT_FOLDER,
                env=dict(self.environment),
                check=False,
                capture_output=True,
                text=True,
            )
        except FileNotFoundError as error:
            raise StackError(f"`pulumi {command[0]}`: pulumi is not on PATH: install it, or run `make env`") from error
        if done.returncode != 0:
            raise StackError(f"`pulumi {' '.join(command)}` failed: {done.stderr.strip()}")
        return done.stdout
