# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false
# The ``onnx`` package, which quantisation needs, is in the ``export`` environment only, where no type checker looks.
"""ONNX in FP32 to ONNX in INT8, run as ``python -m model_repo.quantize SPEC_FILE SOURCE FOLDER [DATA]`` as export is.

Explicit quantisation: pairs of QuantizeLinear and DequantizeLinear say where a value passes through INT8, and TensorRT
and onnxruntime follow them. TensorRT takes signed, symmetric INT8 only (zero points are 0), weights by channel, and
advises to quantise the inputs of weighted layers and neither their outputs nor their biases:
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html,
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html.
"""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from model_repo.calibration import CalibrationData, CalibrationError
from model_repo.exported import ONNX_NAME, RECORD_NAME, ExportedModel
from model_repo.manifest import AccuracyChange, ManifestFile
from model_repo.sample import Array, reference_outputs
from model_repo.spec import ModelSpec, SpecError, read_spec

_WEIGHTED: Final = ["Conv", "Gemm", "MatMul"]
_BATCH_SIZE: Final = 8


def quantize(spec: ModelSpec, source: Path, folder: Path, data: CalibrationData) -> ExportedModel:
    """Write the INT8 model and its record into ``folder``.

    Args:
        spec: the model.
        source: the folder of its export to ONNX.
        folder: exists.
        data: sets the ranges of activations; the part that is held out measures the accuracy.

    Raises:
        CalibrationError: ``data`` cannot be used.
    """
    exported = ExportedModel.model_validate_json((source / RECORD_NAME).read_bytes())
    seen, held_out = data.split(spec)
    path = folder / ONNX_NAME
    quantize_static(
        source / ONNX_NAME,
        path,
        _Reader(seen),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=_WEIGHTED,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        # Smallest to largest: for one long tail among tokens, a clipped range would cost more than a coarse one.
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": _WEIGHTED,
            "MatMulConstBOnly": True,  # products of two activations, in attention, stay in floating point
        },
    )
    quantized = ExportedModel(
        weights=exported.weights,
        parity_error=exported.parity_error,
        files=(ManifestFile.of(folder, path),),
        quantized_from=exported.sha256,
        accuracy=_accuracy(spec, source / ONNX_NAME, path, held_out, data.digest),
    )
    (folder / RECORD_NAME).write_text(quantized.model_dump_json(indent=2) + "\n")
    return quantized


class _Reader(CalibrationDataReader):
    """Gives onnxruntime one batch at a time."""

    def __init__(self, samples: dict[str, Array]) -> None:
        self._batches = _batches(samples)

    def get_next(self) -> dict[str, Array] | None:  # pyright: ignore[reportIncompatibleMethodOverride] - its stub lacks None
        return next(self._batches, None)


def _batches(samples: dict[str, Array]) -> Iterator[dict[str, Array]]:
    count = len(next(iter(samples.values())))
    for start in range(0, count, _BATCH_SIZE):
        yield {name: values[start : start + _BATCH_SIZE] for name, values in samples.items()}


def _accuracy(spec: ModelSpec, before: Path, after: Path, samples: dict[str, Array], data: str) -> AccuracyChange:
    """Hold the INT8 model's answers against those of the model that it was made from."""
    output = spec.outputs[0].name
    expected, actual = (
        np.concatenate([reference_outputs(path, batch)[output] for batch in _batches(samples)])
        for path in (before, after)
    )
    return AccuracyChange(
        data=data,
        samples=len(expected),
        max_abs_error=float(np.abs(actual - expected).max()),
        agreement=float((actual.argmax(axis=-1) == expected.argmax(axis=-1)).mean()),
    )


def main(spec_file: str, source: str, folder: str, data: str | None = None) -> None:
    """Quantise the model of ``spec_file``, exported into ``source``, into the existing ``folder``."""
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime advises to fold what the export has folded
    try:
        spec = read_spec(Path(spec_file))
        quantize(spec, Path(source), Path(folder), CalibrationData(Path(data) if data else None))
    except (CalibrationError, SpecError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
