"""Scores to the most probable classes: a model of Triton's Python backend that needs numpy only."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
Request = Any
Response = Any
"""Of ``triton_python_backend_utils``, which has no types."""


def softmax(scores: Scores) -> Scores:
    """Probabilities along the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


class TritonPythonModel:
    """One instance, by the Python backend's interface."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the labels."""
        self._triton: Any = importlib.import_module("triton_python_backend_utils")  # exists inside Triton only
        folder = Path(args["model_repository"]) / args["model_version"]
        self._labels = np.array((folder / "labels.txt").read_text(encoding="utf-8").splitlines(), np.object_)
        self._top_k = int(json.loads(args["model_config"])["output"][0]["dims"][0])

    def execute(self, requests: list[Request]) -> list[Response]:
        """Rank each request's scores."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Response:
        scores: Scores = self._triton.get_input_tensor_by_name(request, "scores").as_numpy()
        best = np.argsort(-scores, axis=-1, kind="stable")[:, : self._top_k]
        probabilities = np.take_along_axis(softmax(scores), best, axis=-1)
        tensors = [
            self._triton.Tensor("label", self._labels[best]),
            self._triton.Tensor("probability", probabilities),
        ]
        return self._triton.InferenceResponse(tensors)
