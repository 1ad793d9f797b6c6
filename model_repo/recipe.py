"""What a model repository is made of: which model, served how, in which precision, on what."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from model_repo.spec import ModelSpec, changed, load_spec
from model_repo.variant import Device, Variant, parse_variant

Precision = Literal["fp32", "fp16", "int8"]
"""The arithmetic of the served model. A T4 (compute capability 7.5) has neither TF32 nor BF16."""

PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
DEVICES: Final[tuple[Device, ...]] = get_args(Device)

# Triton has these inside its dynamic batcher: without one they would be read by nobody.
_OF_DYNAMIC_BATCHING: Final = frozenset({"preferred_batch_sizes", "max_queue_delay_microseconds", "queue"})


class RecipeError(ValueError):
    """A precision or a device that does not exist, or parts that do not go together."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bytes of a model repository. How it is served is in the spec's ``serving``.

    Raises:
        RecipeError: the precision does not exist in the variant's framework on the device.
    """

    spec: ModelSpec
    variant: Variant
    precision: Precision
    device: Device
    calibration_data: Path | None = None
    """Folder of the samples that set an INT8 model's ranges; None: drawn from a seed. Other precisions ignore it."""

    def __post_init__(self) -> None:  # noqa: D105
        if self.device == "cpu" and self.precision == "fp16":
            raise RecipeError(
                f"{self}: onnxruntime computes FP16 on a CPU by converting to FP32 and back: "
                "slower, and no better a test of what a T4 does. Use fp32 or int8 there."
            )
        if self.variant.framework == "pt" and self.precision == "int8":
            raise RecipeError(
                f"{self}: PyTorch's quantised operators run on a CPU only "
                "(https://docs.pytorch.org/docs/stable/quantization.html). Use a trt variant, or fp16."
            )

    def __str__(self) -> str:
        """In one line, for people."""
        return f"{self.spec.name} {self.variant.name} {self.precision} for {self.device}"

    @property
    def arguments(self) -> str:
        """What names it on the command line; defaults are left out, and so are options of serving."""
        options = [f"--variant {self.variant.name}"]
        if self.precision != "fp32":
            options.append(f"--precision {self.precision}")
        if self.calibration_data:
            options.append(f"--calibration-data {self.calibration_data}")
        if self.device != "cpu":
            options.append(f"--device {self.device}")
        return " ".join([self.spec.name, *options])

    @property
    def needs_engine(self) -> bool:
        """Whether a TensorRT engine is served, which only a T4 can compile."""
        return self.device == "t4" and self.variant.framework == "trt"

    @property
    def instances_per_gpu(self) -> int:
        """Copies of the model on each GPU; on a CPU, on the machine."""
        return self.spec.serving.instances if self.variant.instances_per_gpu > 1 else 1


def named_recipe(
    name: str,
    variant: str,
    precision: str = "fp32",
    device: str = "cpu",
    serving: Mapping[str, object] | None = None,
    calibration_data: Path | None = None,
) -> Recipe:
    """The recipe of these names.

    Args:
        name: of a spec.
        variant: one of the eight.
        precision: fp32, fp16 or int8.
        device: cpu or t4.
        serving: fields of ``model_repo.serving.Serving`` that replace the spec's.
        calibration_data: folder of an INT8 model's samples.

    Raises:
        model_repo.spec.SpecError: there is no such model, its spec is wrong, or an option does not fit it.
        model_repo.variant.VariantError: there is no such variant.
        RecipeError: there is no such precision or device, or it does not go with the variant or an option.
    """
    spec, chosen = load_spec(name), parse_variant(variant)
    if serving:
        _check_used(chosen, serving)
        spec = changed(spec, {"serving": spec.serving.model_dump() | dict(serving)})
    return Recipe(spec, chosen, parse_precision(precision), _parse_device(device), calibration_data)


def parse_precision(text: str) -> Precision:
    """The precision named ``text``.

    Raises:
        RecipeError: a T4 does not have it, or nothing has.
    """
    for precision in PRECISIONS:
        if precision == text.lower():
            return precision
    lacks = " does not exist on a T4 (it came with Ampere)" if text.lower() in {"tf32", "bf16"} else " is no precision"
    raise RecipeError(f"{json.dumps(text)}{lacks}; one of {', '.join(PRECISIONS)}")


def _parse_device(text: str) -> Device:
    for device in DEVICES:
        if device == text:
            return device
    raise RecipeError(f"{json.dumps(text)} is no device; one of {', '.join(DEVICES)}")


def _check_used(variant: Variant, serving: Mapping[str, object]) -> None:
    """An option that the variant would ignore is a mistake."""
    for field in sorted(_OF_DYNAMIC_BATCHING & serving.keys()):
        if not variant.dynamic_batching:
            raise RecipeError(f"{field}: {variant.name} has no dynamic batching; use {variant.framework}-db")
    if "instances" in serving and variant.instances_per_gpu == 1:
        suffix = "ig-db" if variant.dynamic_batching else "ig"
        raise RecipeError(f"instances: {variant.name} has one instance a GPU; use {variant.framework}-{suffix}")
