"""Whether what a stack serves goes with the images, GPUs and drivers that it serves it on."""

from components.gcp.gpu_cluster import ACCELERATOR, GPU_DRIVER_VERSION
from model_repo.compatibility import triton_releases
from model_repo.compatibility_check import Finding, Host, check, gke_host, sagemaker_host
from model_repo.manifest import Engine
from stacks.settings import Settings


def stack_findings(settings: Settings, engine: Engine | None) -> list[Finding]:
    """Compare all that a stack's targets are made of; nothing where it serves on CPUs.

    Args:
        settings: The stack's.
        engine: What it serves; None where that is not known, or nothing was compiled.
    """
    release = triton_releases()[settings.triton.release]
    return [finding for host in stack_hosts(settings) for finding in check(engine, release, host)]


def stack_hosts(settings: Settings) -> list[Host]:
    """The kinds of machine of a stack's targets; those of a cluster that it does not make are not known."""
    if settings.model.device == "cpu":
        return []
    hosts: list[Host] = []
    if settings.sagemaker.enabled:
        ami = triton_releases()[settings.triton.release].inference_ami_version
        hosts.append(sagemaker_host(settings.sagemaker.instance_type, ami))
    if settings.gke.enabled and settings.gke.kubeconfig is None:
        hosts.append(gke_host(ACCELERATOR, GPU_DRIVER_VERSION))
    return hosts
