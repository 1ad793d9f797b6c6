"""Which container images and drivers go with a Triton release, read from ``compatibility.yaml``."""

from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

_TABLE = Path(__file__).parent / "compatibility.yaml"


class TritonRelease(BaseModel):
    """What one release of Triton needs on each target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inference_ami_version: str
    """SageMaker `InferenceAmiVersion` whose NVIDIA driver is new enough for the image's CUDA."""
    gke_image: str
    sagemaker_repository: str
    sagemaker_registries: dict[str, str]
    """AWS region → account of the registry that holds the SageMaker image."""

    def sagemaker_image(self, region: str) -> str:
        """Image URI of the SageMaker Triton container in a region.

        Raises:
            ValueError: The release has no image in that region.
        """
        if region not in self.sagemaker_registries:
            raise ValueError(f'"{region}" has no SageMaker Triton image; one of {", ".join(self.sagemaker_registries)}')
        return f"{self.sagemaker_registries[region]}.dkr.ecr.{region}.amazonaws.com/{self.sagemaker_repository}"


class _Table(BaseModel):
    releases: dict[str, TritonRelease]


@cache
def triton_releases() -> dict[str, TritonRelease]:
    """Every release that the table knows, by its name (``25.09``)."""
    return _Table.model_validate(yaml.safe_load(_TABLE.read_text(encoding="utf-8"))).releases
