"""Which models share the GPUs of a machine: one YAML file a placement, checked against a T4's memory."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from model_repo.config import InstanceGroup
from model_repo.memory import CONTEXT_BYTES, T4_BYTES, Footprint, footprint
from model_repo.recipe import Recipe, named_recipe
from model_repo.spec import changed
from model_repo.tree import configuration_files
from model_repo.yamlfile import SpecError, read_value

PLACEMENTS: Final = Path(__file__).parent / "placements"
"""The folder of the placements: ``<name>.yaml``."""

_VALUE = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PlacementError(ValueError):
    """A placement that a GPU has no memory for."""


class Group(BaseModel):
    """Instances of a model on some GPUs."""

    model_config = _VALUE

    instances: int = Field(ge=1, le=64)
    """On each of them."""
    gpus: tuple[NonNegativeInt, ...] = ()
    """Their numbers, from 0; none: every GPU of the machine."""


class PlacedModel(BaseModel):
    """One model of a placement."""

    model_config = _VALUE

    model: str
    """Name of a spec."""
    variant: str
    """Its framework and its batching count; its instances are those of ``groups``."""
    precision: str
    max_batch_size: PositiveInt | None = None
    """The largest batch, also of the engine's profile, where the spec's would take too much memory."""
    groups: tuple[Group, ...]

    @field_validator("groups")
    @classmethod
    def _apart(cls, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        if not groups:
            raise ValueError("must have an entry, such as [{instances: 2}], which is every GPU")
        named = [gpu for group in groups for gpu in group.gpus]
        if len(set(named)) < len(named) or (len(groups) > 1 and not all(group.gpus for group in groups)):
            raise ValueError("must name each GPU once, as in [{instances: 1, gpus: [0]}, {instances: 2, gpus: [1]}]")
        return groups

    def instances_on(self, gpu: int) -> int:
        """How many instances are on the GPU of that number."""
        return sum(group.instances for group in self.groups if gpu in group.gpus or not group.gpus)

    def recipe(self) -> Recipe:
        """What is served; the errors are those of ``named_recipe``."""
        recipe = named_recipe(self.model, self.variant, self.precision, "t4")
        if self.max_batch_size is None:
            return recipe
        largest = self.max_batch_size
        profile = {name: min(size, largest) for name, size in recipe.spec.profile.model_dump().items()}
        warmup = [size for size in recipe.spec.serving.warmup if size <= largest]
        serving = {**recipe.spec.serving.model_dump(), "warmup": warmup}
        spec = changed(recipe.spec, {"max_batch_size": largest, "profile": profile, "serving": serving})
        return Recipe(spec, recipe.variant, recipe.precision, recipe.device)


class Placement(BaseModel):
    """The models of one machine."""

    model_config = _VALUE

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,38}$")
    description: str
    gpus: int = Field(ge=1, le=8)
    """T4s of the machine; ml.g4dn.metal has the most, 8."""
    models: tuple[PlacedModel, ...]

    @model_validator(mode="after")
    def _fits_the_machine(self) -> Self:
        if not self.models:
            raise ValueError("models: must have an entry")
        names = [placed.model for placed in self.models]
        if len(set(names)) < len(names):
            raise ValueError("models: a model is named twice; put its instances into one entry's groups")
        beyond = [gpu for placed in self.models for group in placed.groups for gpu in group.gpus if gpu >= self.gpus]
        if beyond:
            raise ValueError(f"models: GPU {beyond[0]} is not there: gpus: {self.gpus} are 0 to {self.gpus - 1}")
        return self


@dataclass(frozen=True)
class Share:
    """What the instances of one model take of one GPU."""

    model: str
    instances: int
    footprint: Footprint

    @property
    def total_bytes(self) -> int:
        """Of all the instances."""
        return self.instances * self.footprint.instance_bytes


def placement_names() -> list[str]:
    """The placements that there are, in alphabetical order."""
    return sorted(path.stem for path in PLACEMENTS.glob("*.yaml"))


def load_placement(name: str) -> Placement:
    """Read the placement ``name``.

    Raises:
        SpecError: there is no such placement, or it is wrong.
    """
    if name not in placement_names():
        raise SpecError(f"{json.dumps(name)} is not a placement; one of {', '.join(placement_names())}")
    return read_placement(PLACEMENTS / f"{name}.yaml")


def read_placement(path: Path) -> Placement:
    """Read one placement file.

    Raises:
        SpecError: the file cannot be read or its content does not hold: one line an error.
    """
    return read_value(path, Placement, PLACEMENTS)


def placement_files(placement: Placement) -> dict[str, bytes]:
    """Path in the repository → content, of all the models: what an export or an engine build adds is not in it.

    Raises:
        PlacementError: a GPU has no memory for it.
        SpecError, VariantError, RecipeError: as ``named_recipe``.
    """
    files: dict[str, bytes] = {}
    for gpu in range(placement.gpus):
        check_memory(placement.name, gpu, shares(placement, gpu))
    for placed in placement.models:
        groups = [InstanceGroup(group.instances, group.gpus) for group in placed.groups]
        files |= configuration_files(placed.recipe(), groups)
    return files


def shares(placement: Placement, gpu: int) -> list[Share]:
    """What each model takes of the GPU of that number; the errors are those of ``named_recipe``."""
    placed = [(each, each.instances_on(gpu)) for each in placement.models]
    return [Share(each.model, count, footprint(each.recipe())) for each, count in placed if count]


def needed_bytes(parts: Sequence[Share]) -> int:
    """Of one GPU, the process's own share included."""
    return CONTEXT_BYTES + sum(share.total_bytes for share in parts)


def check_memory(placement: str, gpu: int, parts: Sequence[Share]) -> None:
    """Refuse what is estimated to be more than a T4 has.

    Raises:
        PlacementError: it is; the text names what to lower.
    """
    excess = needed_bytes(parts) - T4_BYTES
    if excess <= 0:
        return
    largest = max(parts, key=lambda share: share.total_bytes)
    fitting = largest.instances + -excess // largest.footprint.instance_bytes
    lower = f"its instances to {fitting}, its max_batch_size" if fitting > 0 else "its max_batch_size"
    raise PlacementError(
        f"placement {placement}: GPU {gpu} needs {needed_bytes(parts) / 1e9:.1f} GB of a T4's {T4_BYTES / 1e9:.1f} GB, "
        f"of which {largest.instances} instances of {largest.model} {largest.total_bytes / 1e9:.1f} GB: "
        f"lower {lower} or its precision"
    )
