"""What is known of an exported model: the export, which has PyTorch, writes it; the build, which has not, reads it."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from model_repo.manifest import AccuracyChange, ManifestFile, Sha256

Form = Literal["onnx", "torchscript", "torchscript-fp16", "int8"]
"""ONNX in FP32, TorchScript in FP32 or FP16, or ONNX whose weights and activations pass through INT8."""

ONNX_NAME: Final = "model.onnx"
"""The exported model, under the name that Triton's onnxruntime backend looks for."""

DATA_NAME: Final = "model.onnx.data"
"""The weights of an ONNX model that are too large for one file; they must lie beside it."""

TORCHSCRIPT_NAME: Final = "model.pt"
"""The exported model, under the name that Triton's PyTorch backend looks for."""

RECORD_NAME: Final = "build.json"
"""The file beside it that holds its ``ExportedModel``."""

SEEDED_RANDOM: Final = "seeded-random"
"""Weights of the right shapes that mean nothing: latency is right, answers are not."""


class ExportedModel(BaseModel):
    """One form of a model and how it came about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str
    """Where they are from: a name and its revision, or ``seeded-random``."""
    parity_error: float = Field(ge=0)
    """The largest absolute difference of an output from PyTorch's, on samples; before quantisation."""
    files: tuple[ManifestFile, ...] = Field(min_length=1)
    """The model, then its weights where they are a file of their own. Paths are names: they lie beside the record."""
    quantized_from: Sha256 | None = None
    """The ONNX file that was quantised; None: nothing was."""
    accuracy: AccuracyChange | None = None
    """What quantisation costs; None: nothing was quantised."""

    @property
    def sha256(self) -> str:
        """That of the model's file, which names that of its weights: it stands for both."""
        return self.files[0].sha256

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.size_bytes for file in self.files)
