"""The whole program, driven by the real CLI against a local cloud."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import yaml
from pulumi_stack import PulumiError

from delivery.stack import PROJECT_FOLDER
from localcloud.cloud import LocalCloud


def write_stack_file(file: Path, cloud: LocalCloud, settings: dict[str, Any]) -> None:
    """Write a stack file: settings, with the providers of the local stack on a cloud of its own."""
    config: dict[str, Any] = yaml.safe_load((PROJECT_FOLDER / "Pulumi.local.yaml").read_text())["config"]
    providers = {key: value for key, value in config.items() if key.startswith(("aws:", "gcp:"))}
    providers["aws:endpoints"] = [dict.fromkeys(providers["aws:endpoints"][0], cloud.aws_url)]
    providers["gcp:storageCustomEndpoint"] = f"{cloud.gcs_url}/storage/v1/"
    file.write_text(yaml.safe_dump({"config": providers | settings}))


@dataclass(frozen=True)
class Program:
    """The program with a copy of a stack file, in a backend of its own."""

    name: str
    file: Path
    cloud: LocalCloud
    clusters: dict[str, str]
    """Region → kubeconfig."""
    environment: dict[str, str]

    def pulumi(self, *arguments: str) -> str:
        done = subprocess.run(
            ["pulumi", *arguments, "--non-interactive", "--stack", self.name],
            cwd=PROJECT_FOLDER,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        if done.returncode:
            raise PulumiError(done.stdout + done.stderr)
        return done.stdout

    def configure(self, section: str, **values: object) -> None:
        """Change settings of one section of the stack file; None takes one away."""
        content = yaml.safe_load(self.file.read_text())
        settings = content["config"].setdefault(f"triton-stack:{section}", {})
        settings |= values
        content["config"][f"triton-stack:{section}"] = {k: v for k, v in settings.items() if v is not None}
        self.file.write_text(yaml.safe_dump(content))

    def up(self) -> list[tuple[str, str]]:
        """Update; return what was done to which resource, in its order, those that stayed the same left out."""
        said = self.pulumi("up", "--yes", "--skip-preview", "--json", f"--config-file={self.file}")
        done = [json.loads(line).get("resOutputsEvent", {}).get("metadata") for line in said.splitlines()]
        return [(each["op"], each["urn"].rpartition("::")[2]) for each in done if each and each["op"] != "same"]

    def outputs(self) -> dict[str, Any]:
        return json.loads(self.pulumi("stack", "output", "--json"))

    def resources(self) -> dict[str, dict[str, Any]]:
        state = json.loads(self.pulumi("stack", "export"))["deployment"].get("resources", [])
        return {each["urn"].rpartition("::")[2]: each for each in state}

    def kubectl(self, region: str, *arguments: str) -> str:
        done = subprocess.run(
            ["kubectl", f"--kubeconfig={self.clusters[region]}", f"--namespace=triton-{self.name}", *arguments],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def object(self, region: str, kind: str) -> dict[str, Any]:
        return json.loads(self.kubectl(region, "get", kind, "triton", "--output=json"))

    def aws(self, service: str) -> Any:
        session = boto3.Session(aws_access_key_id="local", aws_secret_access_key="local", region_name="us-east-1")
        return session.client(service, endpoint_url=self.cloud.aws_url)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownMemberType, reportUnknownVariableType] - of any service

    def scalable_target(self) -> dict[str, Any]:
        (target,) = self.aws("application-autoscaling").describe_scalable_targets(
            ServiceNamespace="sagemaker",
            ResourceIds=[f"endpoint/{self.outputs()['sagemaker']['endpoint']}/variant/triton"],
        )["ScalableTargets"]
        return target

    def now_count(self) -> int:
        endpoint = self.aws("sagemaker").describe_endpoint(EndpointName=self.outputs()["sagemaker"]["endpoint"])
        return endpoint["ProductionVariants"][0]["CurrentInstanceCount"]
