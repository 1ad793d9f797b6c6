"""What goes with what, read from ``compatibility.yaml``: releases of Triton, TensorRT, drivers, GPUs and images."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field

_TABLE: Final = Path(__file__).parent / "compatibility.yaml"

_ReleaseName = Annotated[str, Field(pattern=r"^\d\d\.\d\d$")]
"""Year and month: names sort as the releases follow one another."""

DEFAULT_AMI: Final = "default"
"""In the place of an `InferenceAmiVersion`: what ml.g4dn gets where none is named."""


class CompatibilityError(ValueError):
    """A machine, a driver or an image that the table does not know."""


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TritonRelease(_Row):
    """What the images of one release hold, and what they ask of their host."""

    name: _ReleaseName
    source: str
    tensorrt: str
    """Its version, such as `10.13.3.9`: an engine runs on no other."""
    cuda: str
    oldest_compute_capability: str
    """That of the oldest GPU that the images run on, such as `7.5`."""
    driver: int
    """The oldest branch of NVIDIA's driver that runs the images' CUDA, such as 580."""
    inference_ami_version: str
    """SageMaker `InferenceAmiVersion` whose NVIDIA driver is new enough for the image's CUDA."""
    sagemaker_registries: Mapping[str, str]
    """AWS region → account of the registry that holds the SageMaker image."""

    @property
    def gke_image(self) -> str:
        """The image that pods run, Triton's own."""
        return f"nvcr.io/nvidia/tritonserver:{self.name}-py3"

    def sagemaker_image(self, region: str) -> str:
        """Image URI of the SageMaker Triton container in a region.

        Raises:
            ValueError: The release has no image in that region.
        """
        if region not in self.sagemaker_registries:
            raise ValueError(f'"{region}" has no SageMaker Triton image; one of {", ".join(self.sagemaker_registries)}')
        account = self.sagemaker_registries[region]
        return f"{account}.dkr.ecr.{region}.amazonaws.com/sagemaker-tritonserver:{self.name}-py3"


class Gpu(_Row):
    """One kind of GPU."""

    name: str
    compute_capability: str
    sagemaker: str
    """The family of SageMaker instances that have it, such as `ml.g4dn`."""
    gke: str | None = None
    """Its `cloud.google.com/gke-accelerator`; None: GKE has none."""


class _Registry(_Row):
    source: str
    first: _ReleaseName
    last: _ReleaseName
    accounts: dict[str, str]


class _CudaDrivers(_Row):
    source: str
    branches: dict[str, int]


class _Drivers(_Row):
    source: str
    drivers: dict[str, int]


class _Gpus(_Row):
    source: str
    rows: tuple[Gpu, ...]


class _Table(_Row):
    releases: dict[_ReleaseName, dict[str, Any]]
    sagemaker_registries: tuple[_Registry, ...]
    cuda_drivers: _CudaDrivers
    inference_amis: _Drivers
    gke_drivers: _Drivers
    gpus: _Gpus


@cache
def _table() -> _Table:
    return _Table.model_validate(yaml.safe_load(_TABLE.read_text(encoding="utf-8")))


@cache
def triton_releases() -> dict[str, TritonRelease]:
    """Every release that the table knows, by its name (``25.09``)."""
    return {name: _release(name, row) for name, row in _table().releases.items()}


def named_release(name: str) -> TritonRelease:
    """The release of that name.

    Raises:
        CompatibilityError: The table knows none.
    """
    releases = triton_releases()
    if name not in releases:
        raise CompatibilityError(f'"{name}" is no known Triton release; one of {", ".join(releases)}')
    return releases[name]


def _release(name: str, row: Mapping[str, Any]) -> TritonRelease:
    driver = _table().cuda_drivers.branches[row["cuda"].partition(".")[0]]
    (registry,) = (each for each in _table().sagemaker_registries if each.first <= name <= each.last)
    return TritonRelease(name=name, driver=driver, sagemaker_registries=registry.accounts, **row)


def ami_drivers() -> Mapping[str, int]:
    """SageMaker `InferenceAmiVersion`, or `DEFAULT_AMI` → branch of its driver, such as 580."""
    return _table().inference_amis.drivers


def gke_drivers() -> Mapping[str, int]:
    """A GKE node pool's `gpuDriverVersion` (DEFAULT or LATEST) → branch of its driver, such as 580."""
    return _table().gke_drivers.drivers


def sagemaker_gpu(instance_type: str) -> Gpu:
    """The GPU of a SageMaker instance type, such as ml.g4dn.xlarge.

    Raises:
        CompatibilityError: The table does not know its family.
    """
    family = instance_type.rpartition(".")[0]
    return _gpu({gpu.sagemaker: gpu for gpu in _table().gpus.rows}, family, "family of SageMaker instances with a GPU")


def gke_gpu(accelerator: str) -> Gpu:
    """The GPU of a `cloud.google.com/gke-accelerator`, such as nvidia-tesla-t4.

    Raises:
        CompatibilityError: The table does not know it.
    """
    return _gpu({gpu.gke: gpu for gpu in _table().gpus.rows if gpu.gke}, accelerator, "GKE accelerator")


def _gpu(known: Mapping[str, Gpu], name: str, what: str) -> Gpu:
    if name not in known:
        raise CompatibilityError(f'"{name}" is no known {what}; one of {", ".join(known)}')
    return known[name]
