"""What a model takes of a T4's memory: an estimate from its architecture, before anything runs.

It is meant to be too high rather than too low: where frameworks fuse or reuse, it counts as if they did not.
"""

import math
from dataclasses import dataclass
from typing import Final

from model_repo.recipe import Recipe
from model_repo.spec import BertArchitecture, ModelSpec, TorchvisionSource

T4_BYTES: Final = 15_843_721_216
"""What CUDA reports of a T4: 16 GiB less the 6.25 % in which ECC keeps its bits.

https://forums.developer.nvidia.com/t/nvidia-t4-has-only-15g-of-memory/173099
"""

CONTEXT_BYTES: Final = 1_000_000_000
"""Of the process, whatever it serves: CUDA's context, cuBLAS and cuDNN with their workspaces. An assumption."""

_WEIGHT_BYTES: Final = {"fp32": 4, "fp16": 2, "int8": 1}
_ACTIVATION_BYTES: Final = {"fp32": 4, "fp16": 2, "int8": 2}
"""An INT8 engine computes in FP16 what is not quantised, such as softmax."""

_IMAGE_ACTIVATIONS: Final = 16
"""Of a ResNet, in numbers of its input: the first convolution makes 64 channels at half the resolution, 16/3 times the
input's three; a residual block holds up to three such tensors, what came in, its widest and its sum.

https://arxiv.org/abs/1512.03385, table 1.
"""


@dataclass(frozen=True)
class Footprint:
    """What one instance of a model takes of a GPU, in bytes."""

    weights_bytes: int
    """An instance's own. Triton shares an engine between instances only where no dimension is dynamic, as the batch is:
    https://github.com/triton-inference-server/tensorrt_backend/blob/main/src/model_state.cc (CreateEngine).
    Its PyTorch backend shares them only with the parameter ENABLE_WEIGHT_SHARING, off by default:
    https://github.com/triton-inference-server/pytorch_backend.
    """
    workspace_bytes: int
    """For the activations of the largest batch: an execution context reserves them from the start."""

    @property
    def instance_bytes(self) -> int:
        """Both together."""
        return self.weights_bytes + self.workspace_bytes


def footprint(recipe: Recipe) -> Footprint:
    """The estimate for one instance of the recipe's model.

    A TensorRT execution context holds its profile's largest batch, whatever Triton sends (STATIC, the default):
    https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Core/RuntimeConfig.html
    """
    spec, precision = recipe.spec, recipe.precision
    largest = spec.profile.max if recipe.variant.framework == "trt" else spec.max_batch_size
    return Footprint(
        weights_bytes=spec.parameters * _WEIGHT_BYTES[precision],
        workspace_bytes=largest * peak_activations(spec) * _ACTIVATION_BYTES[precision],
    )


def peak_activations(spec: ModelSpec) -> int:
    """Numbers that are alive at once while one sample passes through the model.

    A transformer's layer holds the most in its attention (input, query, key, value; scores before and after softmax) or
    in its feed-forward half (input, output; the inner layer before and after its activation). Layers follow each other
    and reuse memory. Sizes: https://arxiv.org/abs/1706.03762, section 3.
    """
    if isinstance(spec.source, TorchvisionSource):
        return _IMAGE_ACTIVATIONS * math.prod(spec.inputs[0].dims)
    sizes, (tokens,) = spec.source.architecture, spec.inputs[0].dims
    inner = sizes.intermediate_size if isinstance(sizes, BertArchitecture) else 4 * sizes.hidden_size
    attention = 4 * tokens * sizes.hidden_size + 2 * sizes.num_attention_heads * tokens**2
    feed_forward = 2 * tokens * (sizes.hidden_size + inner)
    return max(attention, feed_forward)
