"""The eight ways in which a model is served: framework, dynamic batching, instances per GPU.

The set is that of the benchmark in AWS's "Deploy large NLP models with Triton on SageMaker", whose table
``capacity`` sizes the stack from; ``ig`` is two instances of the model on each GPU.
"""

import json
from dataclasses import dataclass
from typing import Final, Literal

Device = Literal["t4", "cpu"]
"""What serves the model: an NVIDIA T4, or the CPU of the local stack."""


class VariantError(ValueError):
    """A name that is no variant."""


@dataclass(frozen=True)
class Variant:
    """One way to serve a model."""

    name: str
    framework: Literal["pt", "trt"]
    """PyTorch, or a TensorRT engine made from it."""
    dynamic_batching: bool
    """Whether Triton joins requests that wait at the same time."""
    instances_per_gpu: int
    """Copies of the model that run side by side on each GPU."""


VARIANTS: Final = {
    variant.name: variant
    for variant in (
        Variant("pt-base", "pt", dynamic_batching=False, instances_per_gpu=1),
        Variant("pt-db", "pt", dynamic_batching=True, instances_per_gpu=1),
        Variant("pt-ig", "pt", dynamic_batching=False, instances_per_gpu=2),
        Variant("pt-ig-db", "pt", dynamic_batching=True, instances_per_gpu=2),
        Variant("trt-base", "trt", dynamic_batching=False, instances_per_gpu=1),
        Variant("trt-db", "trt", dynamic_batching=True, instances_per_gpu=1),
        Variant("trt-ig", "trt", dynamic_batching=False, instances_per_gpu=2),
        Variant("trt-ig-db", "trt", dynamic_batching=True, instances_per_gpu=2),
    )
}

# The benchmark's table calls it so; its text says trt-ig-db.
_ALIASES: Final = {"trt-db-ig": "trt-ig-db"}


def parse_variant(text: str) -> Variant:
    """The variant named ``text``.

    Raises:
        VariantError: there is none of that name; the text lists those that there are.
    """
    variant = VARIANTS.get(_ALIASES.get(text, text))
    if variant is None:
        raise VariantError(f"{json.dumps(text)} is not a variant; one of {', '.join(VARIANTS)}")
    return variant
