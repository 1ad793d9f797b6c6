"""What a stack serves now: its outputs, and the counts that autoscaling has moved."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import kubernetes.client
import kubernetes.config
import requests
import yaml

if TYPE_CHECKING:
    from types_boto3_sagemaker import SageMakerClient

_POLL_S = 0.2
_ANSWER_S = 5


class NotReadyError(RuntimeError):
    """A target that did not become ready in time."""


@dataclass(frozen=True)
class TargetStatus:
    """One endpoint of one target."""

    target: str
    endpoint: str
    model: str
    variant: str
    digest: str
    instance_type: str
    min_count: int
    now_count: int
    """Instances in service; pods that are ready."""
    max_count: int
    scaling_target_per_minute: float
    cost_usd_per_hour: float | None
    """Price of the planned count; None where it is not known."""


def target_statuses(outputs: dict[str, Any], project_folder: Path) -> Iterator[TargetStatus]:
    """Ask every target of a stack how many instances it has now.

    Args:
        outputs: The stack's outputs.
        project_folder: What a relative kubeconfig path is relative to.
    """
    if sagemaker := outputs.get("sagemaker"):
        client: SageMakerClient = boto3.client(  # pyright: ignore[reportUnknownMemberType] - most services have no stubs
            "sagemaker", region_name=sagemaker["region"]
        )
        described = client.describe_endpoint(EndpointName=sagemaker["endpoint"])
        now = sum(variant.get("CurrentInstanceCount", 0) for variant in described.get("ProductionVariants", []))
        yield _status("sagemaker", sagemaker["endpoint"], sagemaker, now)
    for cluster in outputs.get("gke", []):
        deployment = apps_api(cluster["kubeconfig"], project_folder).read_namespaced_deployment(
            cluster["deployment"], cluster["namespace"]
        )
        ready = deployment.status.ready_replicas if deployment.status else None
        yield _status(f"gke {cluster['region']}", cluster["http"], cluster, ready or 0)


def wait_until_ready(outputs: dict[str, Any], project_folder: Path, deadline_s: float = 120) -> None:
    """Wait until every cluster's Triton is ready and has its least count of pods.

    Args:
        outputs: The stack's outputs.
        project_folder: What a relative kubeconfig path is relative to.
        deadline_s: Seconds to wait.

    Raises:
        NotReadyError: The deadline passed; the text says what was still missing.
    """
    end = time.monotonic() + deadline_s
    while missing := list(_missing(outputs, project_folder)):
        if time.monotonic() > end:
            raise NotReadyError(f"not ready after {deadline_s:g} s: {'; '.join(missing)}")
        time.sleep(_POLL_S)


def _missing(outputs: dict[str, Any], project_folder: Path) -> Iterator[str]:
    for cluster in outputs.get("gke", []):
        # Of the model, not of the server: one that serves the model before it is ready too.
        url = f"{cluster['http']}/v2/models/{cluster['model']}/ready"
        try:
            if not requests.get(url, timeout=_ANSWER_S).ok:
                yield f"{url} says that the model is not ready"
        except requests.RequestException:
            yield f"{url} does not answer"
    for status in target_statuses(outputs, project_folder):
        if status.now_count < status.min_count:
            yield f"{status.target} has {status.now_count} of at least {status.min_count} instances"


def apps_api(kubeconfig: str, project_folder: Path) -> kubernetes.client.AppsV1Api:
    """A client of a cluster.

    Args:
        kubeconfig: Its path, or its text.
        project_folder: What a relative path is relative to.
    """
    if "\n" in kubeconfig:
        client = kubernetes.config.new_client_from_config_dict(yaml.safe_load(kubeconfig))  # pyright: ignore[reportUnknownMemberType]
    else:
        path = str(project_folder / Path(kubeconfig).expanduser())
        client = kubernetes.config.new_client_from_config(path)  # pyright: ignore[reportUnknownMemberType]
    return kubernetes.client.AppsV1Api(client)


def _status(target: str, endpoint: str, output: dict[str, Any], now_count: int) -> TargetStatus:
    plan = output["plan"]
    return TargetStatus(
        target=target,
        endpoint=endpoint,
        model=output["model"],
        variant=plan["variant"],
        digest=output["digest"],
        instance_type=plan["instance_type"],
        min_count=plan["min_count"],
        now_count=now_count,
        max_count=plan["max_count"],
        scaling_target_per_minute=plan["scaling_target_per_minute"],
        cost_usd_per_hour=plan["cost_usd_per_hour"],
    )
