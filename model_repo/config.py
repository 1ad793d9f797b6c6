"""Triton's ``config.pbtxt`` of a model.

Fields: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from google.protobuf import json_format, text_format
from google.protobuf.message import Message
from tritonclient.grpc import model_config_pb2

from model_repo.recipe import Recipe
from model_repo.serving import QueuePolicy, Serving
from model_repo.spec import ModelSpec, TensorSpec

CONFIG_NAME: Final = "config.pbtxt"
"""The file, in the model's folder, that holds the configuration."""

# protoc's Python output makes its classes at import, where no type checker sees them.
ModelConfig = cast("type[Message]", model_config_pb2.ModelConfig)  # pyright: ignore[reportAttributeAccessIssue]

# PyTorch's backend takes the arguments' names or their order, so ours hold where the order is that of the model:
# "Special Conventions for PyTorch Backend" in
# https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
_T4: Final = {"pt": ("pytorch_libtorch", "model.pt"), "trt": ("tensorrt_plan", "model.plan")}
"""By framework: Triton's platform, and its model file."""


@dataclass(frozen=True)
class InstanceGroup:
    """Copies of a model on some GPUs."""

    count: int
    """On each of them."""
    gpus: tuple[int, ...] = ()
    """Their numbers; none: every GPU."""


def served_name(recipe: Recipe) -> str:
    """The name in Triton of the model itself: in an ensemble, clients call that one by the plain name."""
    return f"{recipe.spec.name}-model" if recipe.spec.serving.ensemble else recipe.spec.name


def model_config(recipe: Recipe, groups: Sequence[InstanceGroup] = ()) -> Message:
    """The configuration, a ``ModelConfig`` message, of the recipe's model.

    On the CPU, which runs no TensorRT engine, onnxruntime runs the ONNX file that the engine is made from.
    The precision is not in it: engines and TorchScript of every precision keep the tensors of the spec.

    Args:
        recipe: what is served.
        groups: where its instances are; none: as many as the variant has, on every GPU.
    """
    spec, serving = recipe.spec, recipe.spec.serving
    fields: dict[str, Any] = {
        "name": served_name(recipe),
        "max_batch_size": spec.max_batch_size,
        "input": [tensor_fields(tensor) for tensor in spec.inputs],
        "output": [tensor_fields(tensor) for tensor in spec.outputs],
        "instance_group": [
            {
                "count": group.count,
                "kind": "KIND_CPU" if recipe.device == "cpu" else "KIND_GPU",
                "gpus": list(group.gpus),
            }
            for group in groups or (InstanceGroup(recipe.instances_per_gpu),)
        ],
        "model_warmup": [_warmup(spec, batch_size) for batch_size in serving.warmup],
    }
    if recipe.device == "cpu":
        fields["backend"] = "onnxruntime"
    else:
        fields["platform"], fields["default_model_filename"] = _T4[recipe.variant.framework]
    if recipe.variant.dynamic_batching:
        fields["dynamic_batching"] = _batching(serving)
    if serving.response_cache:
        fields["response_cache"] = {"enable": True}
    return json_format.ParseDict(fields, ModelConfig())


def config_pbtxt(config: Message) -> str:
    """A configuration as the text that Triton reads."""
    return text_format.MessageToString(config)


def tensor_fields(tensor: TensorSpec) -> dict[str, Any]:
    """One input or output, by ``ModelConfig``'s names."""
    return {"name": tensor.name, "data_type": f"TYPE_{tensor.dtype}", "dims": list(tensor.dims)}


def _batching(serving: Serving) -> dict[str, Any]:
    """Without options: batch what is there, wait for nothing."""
    fields: dict[str, Any] = {}
    if serving.preferred_batch_sizes:
        fields["preferred_batch_size"] = list(serving.preferred_batch_sizes)
    if serving.max_queue_delay_microseconds:
        fields["max_queue_delay_microseconds"] = serving.max_queue_delay_microseconds
    if serving.queue:
        fields["default_queue_policy"] = _queue(serving.queue)
    return fields


def _queue(queue: QueuePolicy) -> dict[str, Any]:
    return {**queue.model_dump(), "timeout_action": queue.timeout_action.upper()}


def _warmup(spec: ModelSpec, batch_size: int) -> dict[str, Any]:
    """Zeros, which are valid ids of tokens; of random integers few would be."""
    inputs = {
        tensor.name: {"data_type": f"TYPE_{tensor.dtype}", "dims": list(tensor.dims), "zero_data": True}
        for tensor in spec.inputs
    }
    return {"name": f"batch-{batch_size}", "batch_size": batch_size, "inputs": inputs}
