"""What is known of an exported model: the export, which has PyTorch, writes it; the build, which has not, reads it."""

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from model_repo.manifest import Sha256

ONNX_NAME: Final = "model.onnx"
"""The exported model, under the name that Triton's onnxruntime backend looks for."""

RECORD_NAME: Final = "build.json"
"""The file beside it that holds its ``ExportedModel``."""

SEEDED_RANDOM: Final = "seeded-random"
"""Weights of the right shapes that mean nothing: latency is right, answers are not."""


class ExportedModel(BaseModel):
    """One ONNX file and how it came about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str
    """Where they are from: a name and its revision, or ``seeded-random``."""
    parity_error: float = Field(ge=0)
    """The largest absolute difference of an output from PyTorch's, on samples."""
    size_bytes: int = Field(gt=0)
    sha256: Sha256
