"""Valid inputs of a model, and the outputs that onnxruntime gives for them."""

from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from model_repo.spec import InputSpec, ModelSpec, TorchvisionSource

NUMPY_TYPES: Final = {"FP16": np.float16, "FP32": np.float32, "INT32": np.int32, "INT64": np.int64}
"""Triton's names of types → numpy's."""

Array = NDArray[Any]


def sample_inputs(spec: ModelSpec, batch_size: int, seed: int = 0) -> dict[str, Array]:
    """Draw one batch, by input name: the same for the same ``seed``.

    Args:
        spec: the model.
        batch_size: at least 1.
        seed: at least 0.
    """
    random = np.random.default_rng(seed)
    return {tensor.name: _draw(spec, tensor, batch_size, random) for tensor in spec.inputs}


def _draw(spec: ModelSpec, tensor: InputSpec, batch_size: int, random: np.random.Generator) -> Array:
    shape = (batch_size, *tensor.dims)
    dtype = NUMPY_TYPES[tensor.dtype]
    if tensor.content == "image":
        # Normalised pixels have a mean of 0 and a deviation of 1.
        return random.standard_normal(shape).astype(dtype)
    if tensor.content == "attention-mask":
        # A text of at least one token, then padding.
        lengths = _integers(random, 1, tensor.dims[0], (batch_size, 1))
        return (np.arange(tensor.dims[0]) < lengths).astype(dtype)
    assert not isinstance(spec.source, TorchvisionSource)  # noqa: S101 - ModelSpec lets it have no token ids
    return _integers(random, 0, spec.source.architecture.vocab_size - 1, shape).astype(dtype)


def _integers(random: np.random.Generator, low: int, high: int, shape: tuple[int, ...]) -> Array:
    """Draw from ``low`` to ``high``, both included."""
    return random.integers(low, high, shape, np.int64, endpoint=True)  # pyright: ignore[reportUnknownMemberType] - numpy 1's own stub


def reference_outputs(onnx_path: Path, inputs: dict[str, Array]) -> dict[str, Array]:
    """What onnxruntime makes of ``inputs`` on the CPU, by output name."""
    import onnxruntime  # noqa: PLC0415 - of the local and export environments only

    # Its own annotations leave the types open.
    session = cast("Any", onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"]))
    names: list[str] = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))
