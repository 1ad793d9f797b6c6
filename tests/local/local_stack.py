"""The local stack on a cloud of its own, beside the user's: other ports, another state folder, a stack file of it."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from cli.local import T4_NODES, bring_up
from delivery.stack import PROJECT_FOLDER
from localcloud.cloud import LocalCloud, Ports
from localcloud.pod import free_port


class LocalStack:
    """One cloud and its stack.

    Args:
        folder: Where its state folder and its stack file go.
    """

    def __init__(self, folder: Path) -> None:
        self.cloud = LocalCloud(folder / "state", Ports.free(), T4_NODES)
        self.file = folder / "Pulumi.local.yaml"
        content = yaml.safe_load((PROJECT_FOLDER / self.file.name).read_text())
        config: dict[str, Any] = content["config"]
        config["aws:endpoints"] = [dict.fromkeys(config["aws:endpoints"][0], self.cloud.aws_url)]
        config["gcp:storageCustomEndpoint"] = f"{self.cloud.gcs_url}/storage/v1/"
        self.ports = [*vars(self.cloud.ports).values(), free_port(), free_port()]
        """All that it listens on."""
        config["triton-stack:gke"] |= {
            "kubeconfig": str(self.state / "kubeconfig"),
            "http_port": self.ports[-2],
            "grpc_port": self.ports[-1],
        }
        self.file.write_text(yaml.safe_dump(content))

    @property
    def state(self) -> Path:
        """The cloud's state folder."""
        return self.cloud.state

    def up(self) -> None:
        """Do as `triton-stack up` does."""
        bring_up(self.cloud, self.file)

    def set(self, section: str, **values: object) -> None:
        """Change settings of one section of the stack file."""
        content = yaml.safe_load(self.file.read_text())
        content["config"][f"triton-stack:{section}"] |= values
        self.file.write_text(yaml.safe_dump(content))

    def json(self, *command: str) -> Any:
        """What a command of the stack's environment prints."""
        environment = os.environ | self.cloud.environment()
        done = subprocess.run(command, cwd=PROJECT_FOLDER, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs."""
        return self.json("pulumi", "stack", "output", "--json", "--stack", "local")

    def pids(self) -> dict[str, int]:
        """The processes that the cloud supervises, by name."""
        return {file.stem: json.loads(file.read_bytes())["pid"] for file in (self.state / "pids").glob("*.json")}
