"""Whether an engine, an image, a GPU and a driver go together, before anything is created."""

from collections.abc import Mapping
from dataclasses import dataclass

from model_repo.compatibility import (
    DEFAULT_AMI,
    CompatibilityError,
    Gpu,
    TritonRelease,
    ami_drivers,
    gke_drivers,
    gke_gpu,
    sagemaker_gpu,
)
from model_repo.manifest import Engine


@dataclass(frozen=True)
class Host:
    """What runs a Triton image."""

    name: str
    """For people, such as `SageMaker ml.g4dn.xlarge`."""
    gpu: Gpu
    driver: int
    """The branch of its NVIDIA driver, such as 580."""
    driver_setting: str
    """Where the driver comes from: the setting and its value."""
    newest_driver_setting: str
    """The same with the newest driver there is; a newer driver runs all that an older one does."""


@dataclass(frozen=True)
class Finding:
    """One thing that was compared."""

    what: str
    """Which two things, such as `SageMaker ml.g4dn.xlarge: driver`."""
    ok: bool
    detail: str
    """What each of them is."""
    fix: str | None
    """What to write instead; None where nothing is wrong."""


def sagemaker_host(instance_type: str, inference_ami_version: str | None) -> Host:
    """A SageMaker endpoint's instance; without an AMI version it gets the default one of ml.g4dn.

    Raises:
        model_repo.compatibility.CompatibilityError: The table knows no such instance type or AMI.
    """
    ami = inference_ami_version or DEFAULT_AMI
    return _host(f"SageMaker {instance_type}", sagemaker_gpu(instance_type), "InferenceAmiVersion", ami, ami_drivers())


def gke_host(accelerator: str, gpu_driver_version: str) -> Host:
    """A GKE node with one accelerator.

    Args:
        accelerator: Such as `nvidia-tesla-t4`.
        gpu_driver_version: Of the node pool: DEFAULT or LATEST.

    Raises:
        model_repo.compatibility.CompatibilityError: There is no such accelerator or driver version.
    """
    gpu = gke_gpu(accelerator)
    return _host(f"GKE {accelerator}", gpu, "gpuDriverVersion", gpu_driver_version, gke_drivers())


def _host(name: str, gpu: Gpu, setting: str, value: str, drivers: Mapping[str, int]) -> Host:
    if value not in drivers:
        raise CompatibilityError(f'"{value}" is no known {setting}; one of {", ".join(drivers)}')
    newest = max(drivers, key=lambda each: drivers[each])
    return Host(name, gpu, drivers[value], f"{setting} {value}", f"{setting} {newest}")


def check(engine: Engine | None, release: TritonRelease, host: Host) -> list[Finding]:
    """Compare all that must agree for ``host`` to serve.

    Args:
        engine: What is served; None where nothing was compiled, so that only image and host are compared.
        release: Which Triton serves it.
        host: What runs that Triton.
    """
    return [*_image_findings(release, host), *(_engine_findings(engine, release, host) if engine else [])]


def _image_findings(release: TritonRelease, host: Host) -> list[Finding]:
    gpu, oldest = host.gpu, release.oldest_compute_capability
    return [
        _finding(
            f"{host.name}: driver",
            ok=host.driver >= release.driver,
            detail=f"{host.driver} ({host.driver_setting}); CUDA {release.cuda} of Triton {release.name} "
            f"needs {release.driver} or newer",
            fix=f"use {host.newest_driver_setting}",
        ),
        _finding(
            f"{host.name}: image",
            ok=_version(gpu.compute_capability) >= _version(oldest),
            detail=f"{gpu.name} ({gpu.compute_capability}); Triton {release.name} runs on {oldest} and newer",
            fix="use an older triton.release, or a newer GPU",
        ),
    ]


def _engine_findings(engine: Engine, release: TritonRelease, host: Host) -> list[Finding]:
    gpu = host.gpu
    return [
        _finding(
            f"{host.name}: engine and GPU",
            ok=engine.compute_capability == gpu.compute_capability,
            detail=f"engine {engine.key[:12]} was built for {engine.compute_capability}; "
            f"a {gpu.name} has {gpu.compute_capability}",
            fix=f"build it for {gpu.compute_capability}, or serve it on a GPU that has {engine.compute_capability}",
        ),
        _finding(
            f"{host.name}: engine and image",
            ok=engine.tensorrt == release.tensorrt,
            detail=f"engine {engine.key[:12]} was built by TensorRT {engine.tensorrt}; "
            f"Triton {release.name} has {release.tensorrt}",
            fix=f"set triton.release to {engine.triton_release}, or build the engine again for {release.name}",
        ),
    ]


def _finding(what: str, *, ok: bool, detail: str, fix: str) -> Finding:
    return Finding(what, ok, detail, None if ok else fix)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
