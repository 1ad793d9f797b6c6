"""Triton's ``config.pbtxt`` of a model.

Fields: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

from typing import Any, Final, cast

from google.protobuf import json_format, text_format
from google.protobuf.message import Message
from tritonclient.grpc import model_config_pb2

from model_repo.recipe import Recipe
from model_repo.spec import TensorSpec

CONFIG_NAME: Final = "config.pbtxt"
"""The file, in the model's folder, that holds the configuration."""

# protoc's Python output makes its classes at import, where no type checker sees them.
_ModelConfig = cast("type[Message]", model_config_pb2.ModelConfig)  # pyright: ignore[reportAttributeAccessIssue]

_T4_PLATFORMS: Final = {"pt": "pytorch_libtorch", "trt": "tensorrt_plan"}


def model_config(recipe: Recipe) -> Message:
    """The configuration, a ``ModelConfig`` message, of the recipe's model.

    On the CPU, which runs no TensorRT engine, onnxruntime runs the ONNX file that the engine is made from.
    """
    spec, variant, device = recipe.spec, recipe.variant, recipe.device
    fields: dict[str, Any] = {
        "name": spec.name,
        "max_batch_size": spec.max_batch_size,
        "input": [_tensor(tensor) for tensor in spec.inputs],
        "output": [_tensor(tensor) for tensor in spec.outputs],
        "instance_group": [
            {"count": variant.instances_per_gpu, "kind": "KIND_CPU" if device == "cpu" else "KIND_GPU"},
        ],
    }
    if device == "cpu":
        fields["backend"] = "onnxruntime"
    else:
        fields["platform"] = _T4_PLATFORMS[variant.framework]
    if variant.dynamic_batching:
        fields["dynamic_batching"] = {}  # batch what is there, wait for nothing
    return json_format.ParseDict(fields, _ModelConfig())


def config_pbtxt(recipe: Recipe) -> str:
    """The same, as the text that Triton reads."""
    return text_format.MessageToString(model_config(recipe))


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": f"TYPE_{tensor.dtype}", "dims": list(tensor.dims)}
