"""What a model repository is made of: which model, served how, in which precision, on what."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from model_repo.spec import ModelSpec, load_spec
from model_repo.variant import Device, Variant, parse_variant

Precision = Literal["fp32", "fp16", "int8"]
"""The arithmetic of the served model. A T4 (compute capability 7.5) has neither TF32 nor BF16."""

_PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
_DEVICES: Final[tuple[Device, ...]] = get_args(Device)


class RecipeError(ValueError):
    """A precision or a device that does not exist, or that do not go together."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bytes of a model repository."""

    spec: ModelSpec
    variant: Variant
    precision: Precision
    device: Device
    calibration_data: Path | None = None
    """Folder of the samples that set an INT8 model's ranges; None: drawn from a seed. Other precisions ignore it."""

    def __str__(self) -> str:
        """In one line, for people."""
        return f"{self.spec.name} {self.variant.name} {self.precision} for {self.device}"


def named_recipe(
    name: str, variant: str, precision: str = "fp32", device: str = "cpu", calibration_data: Path | None = None
) -> Recipe:
    """The recipe of these names.

    Raises:
        model_repo.spec.SpecError: there is no such model, or its spec is wrong.
        model_repo.variant.VariantError: there is no such variant.
        RecipeError: there is no such precision or device.
    """
    return Recipe(
        load_spec(name), parse_variant(variant), parse_precision(precision), _parse_device(device), calibration_data
    )


def parse_precision(text: str) -> Precision:
    """The precision named ``text``.

    Raises:
        RecipeError: a T4 does not have it, or nothing has.
    """
    for precision in _PRECISIONS:
        if precision == text.lower():
            return precision
    lacks = " does not exist on a T4 (it came with Ampere)" if text.lower() in {"tf32", "bf16"} else " is no precision"
    raise RecipeError(f"{json.dumps(text)}{lacks}; one of {', '.join(_PRECISIONS)}")


def _parse_device(text: str) -> Device:
    for device in _DEVICES:
        if device == text:
            return device
    raise RecipeError(f"{json.dumps(text)} is no device; one of {', '.join(_DEVICES)}")
