"""Triton's ``onnxruntime`` backend on the CPU, as a Python-based backend over the onnxruntime package.

Triton loads this file for every model whose configuration says ``backend: "onnxruntime"`` or
``platform: "onnxruntime_onnx"``, so that a repository made for the C++ backend is served unchanged.
Interface: https://github.com/triton-inference-server/python_backend (``TritonPythonModel``).
"""

import importlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

ort: Any = importlib.import_module("onnxruntime")  # untyped
pb_utils: Any = importlib.import_module("triton_python_backend_utils")  # exists inside Triton's stub process only
_state: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
_RUN_ERRORS = (_state.Fail, _state.InvalidArgument, _state.RuntimeException)

_TYPES = {"float16": "FP16", "float": "FP32", "double": "FP64"}
"""ONNX's names of types that are not Triton's in small letters."""


class TritonPythonModel:
    """One instance of a model: one onnxruntime session."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load ``<model>/<version>/model.onnx`` and hold it against the configuration, as the C++ backend does.

        Raises:
            TritonModelException: The configuration names a tensor or a type that the ONNX file does not have.
        """
        config: dict[str, Any] = json.loads(args["model_config"])
        file = config.get("default_model_filename") or "model.onnx"
        options = ort.SessionOptions()
        # Parallelism comes from Triton's instance groups; a pool per instance would fight over the same cores.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = Path(args["model_repository"]) / args["model_version"] / file
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._batches = config["max_batch_size"] > 0
        self._inputs = [tensor["name"] for tensor in config["input"]]
        _check("input", config["input"], self._session.get_inputs())
        _check("output", config["output"], self._session.get_outputs())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer one batch of Triton's: requests of equal shapes and outputs run together."""
        groups: defaultdict[object, list[int]] = defaultdict(list)
        tensors: list[list[np.ndarray[Any, Any]]] = []
        for index, request in enumerate(requests):
            tensors.append([pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs])
            shapes = tuple(array.shape[1:] for array in tensors[index])
            groups[(shapes, *request.requested_output_names(), None if self._batches else index)].append(index)
        responses: dict[int, Any] = {}
        for members in groups.values():
            outputs = requests[members[0]].requested_output_names()
            responses |= zip(members, self._run([tensors[index] for index in members], outputs), strict=True)
        return [responses[index] for index in range(len(requests))]

    def _run(self, batch: list[list[np.ndarray[Any, Any]]], outputs: list[str]) -> list[Any]:
        joined = [np.concatenate(arrays) for arrays in zip(*batch, strict=True)] if len(batch) > 1 else batch[0]
        try:
            results = self._session.run(outputs, dict(zip(self._inputs, joined, strict=True)))
        except _RUN_ERRORS as error:
            failure = pb_utils.TritonError(f"onnxruntime: {error}")
            return [pb_utils.InferenceResponse(error=failure) for _ in batch]
        ends = np.cumsum([arrays[0].shape[0] for arrays in batch])[:-1]
        parts = [np.split(result, ends) if len(batch) > 1 else [result] for result in results]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(*pair) for pair in zip(outputs, arrays, strict=True)])
            for arrays in zip(*parts, strict=True)
        ]


def _check(kind: str, configured: list[dict[str, Any]], found: list[Any]) -> None:
    types: dict[str, str] = {}
    for node in found:
        onnx_type = node.type.removeprefix("tensor(").removesuffix(")")
        types[node.name] = f"TYPE_{_TYPES.get(onnx_type, onnx_type.upper())}"
    for tensor in configured:
        name, data_type = tensor["name"], tensor["data_type"]
        if types.get(name) != data_type:
            has = ", ".join(" ".join(pair) for pair in types.items())
            raise pb_utils.TritonModelException(f"{kind} {name} {data_type} is not in the ONNX file, which has: {has}")
