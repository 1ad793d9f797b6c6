"""What is served: one YAML file a model, read into a ``ModelSpec``."""

import json
from pathlib import Path
from typing import Annotated, Final, Literal, Self, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from pydantic_core import ErrorDetails

MODELS: Final = Path(__file__).parent / "models"
"""The folder of the specs: ``<model name>.yaml``."""

_SHORT: Final = 60


class SpecError(ValueError):
    """A spec that does not exist or does not hold: one line an error."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What random numbers are drawn from."""


class HubWeights(_Value):
    """Weights on the Hugging Face hub, pinned: a branch moves, a commit does not."""

    id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Owner and repository, such as ``google-bert/bert-large-uncased``."""
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    """The commit, 40 hex digits."""


class BertArchitecture(_Value):
    """The sizes of a BERT classifier, by their names in ``transformers.BertConfig``."""

    vocab_size: PositiveInt
    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    intermediate_size: PositiveInt
    max_position_embeddings: PositiveInt
    """The longest sequence, in tokens."""
    num_labels: int = Field(ge=2)


class TransformersSource(_Value):
    """A BERT sequence classifier of the ``transformers`` package."""

    kind: Literal["transformers"]
    hub: HubWeights
    architecture: BertArchitecture
    seed: Seed
    """Draws what the hub does not give: the classifier head, and without the hub every weight."""


class Gpt2Architecture(_Value):
    """The sizes of a GPT-2 model, by the names that ``transformers.GPT2Config`` shares with BERT's."""

    vocab_size: PositiveInt
    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    max_position_embeddings: PositiveInt
    """The longest sequence, in tokens."""


class Gpt2Source(_Value):
    """A GPT-2 language model of the ``transformers`` package, which scores the token that follows the text."""

    kind: Literal["gpt2"]
    hub: HubWeights
    architecture: Gpt2Architecture
    seed: Seed
    """Draws the weights where they cannot be downloaded."""


class TorchvisionSource(_Value):
    """An image model of the ``torchvision`` package."""

    kind: Literal["torchvision"]
    model: str
    """A name that ``torchvision.models.get_model`` knows."""
    weights: str
    """A name that ``torchvision.models.get_weight`` knows."""
    seed: Seed
    """Draws the weights where they cannot be downloaded."""


class TensorSpec(_Value):
    """One tensor of the model's interface."""

    name: str = Field(pattern=r"^\w+$")
    dtype: Literal["FP16", "FP32", "INT32", "INT64"]
    """Triton's name of the type."""
    dims: tuple[PositiveInt, ...]
    """The shape without the batch."""


class InputSpec(TensorSpec):
    """One input, with what it means: samples are drawn accordingly."""

    content: Literal["token-ids", "attention-mask", "image"]


class BatchProfile(_Value):
    """The smallest, the usual and the largest batch of a TensorRT engine's optimisation profile."""

    min: PositiveInt
    opt: PositiveInt
    max: PositiveInt

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if not self.min <= self.opt <= self.max:
            raise ValueError("min ≤ opt ≤ max must hold, as in {min: 1, opt: 16, max: 128}")
        return self


class ModelSpec(_Value):
    """One model: where it comes from, its interface and its batch sizes. Outputs are raw scores."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,38}$")
    """The name in buckets, endpoints and pods, and of the file."""
    description: str
    source: Annotated[TransformersSource | Gpt2Source | TorchvisionSource, Field(discriminator="kind")]
    inputs: tuple[InputSpec, ...]
    """In the order of the model's arguments."""
    outputs: tuple[TensorSpec]
    max_batch_size: PositiveInt
    """The largest batch that Triton sends to the model."""
    profile: BatchProfile

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.max_batch_size > self.profile.max:
            raise ValueError(
                f"max_batch_size: {self.max_batch_size} is more than profile.max, {self.profile.max}: "
                f"the engine would refuse such a batch; use {self.profile.max} or less"
            )
        arguments = ("image",) if self.source.kind == "torchvision" else ("token-ids", "attention-mask")
        if tuple(tensor.content for tensor in self.inputs) != arguments:
            raise ValueError(
                f"inputs: a {self.source.kind} model takes, in this order, contents {', '.join(arguments)}"
            )
        if isinstance(self.source, TransformersSource):
            self._fits(self.source.architecture, scores=("num_labels", self.source.architecture.num_labels))
        elif isinstance(self.source, Gpt2Source):
            self._fits(self.source.architecture, scores=("vocab_size", self.source.architecture.vocab_size))
        elif len(self.inputs[0].dims) != 3:  # noqa: PLR2004
            raise ValueError("inputs.0.dims: must be channels, height and width, such as [3, 224, 224]")
        return self

    def _fits(self, architecture: BertArchitecture | Gpt2Architecture, scores: tuple[str, int]) -> None:
        if len({tensor.dims for tensor in self.inputs}) > 1 or len(self.inputs[0].dims) != 1:
            raise ValueError("inputs: dims must be the sequence length, the same for every input, such as [128]")
        if self.inputs[0].dims[0] > architecture.max_position_embeddings:
            raise ValueError(
                f"inputs.0.dims: {self.inputs[0].dims[0]} tokens are more than "
                f"source.architecture.max_position_embeddings; use [{architecture.max_position_embeddings}] or less"
            )
        name, count = scores
        if self.outputs[0].dims != (count,):
            raise ValueError(f"outputs.0.dims: must be source.architecture.{name}: [{count}]")
        if architecture.hidden_size % architecture.num_attention_heads:
            raise ValueError(
                "source.architecture.num_attention_heads: must divide hidden_size, such as hidden_size / 64"
            )


def spec_names() -> list[str]:
    """The models that there are, in alphabetical order."""
    return sorted(path.stem for path in MODELS.glob("*.yaml"))


def load_spec(name: str) -> ModelSpec:
    """Read the spec of the model ``name``.

    Raises:
        SpecError: there is no such model, or its spec is wrong.
    """
    if name not in spec_names():
        raise SpecError(f"{json.dumps(name)} is not a model; one of {', '.join(spec_names())}")
    return read_spec(MODELS / f"{name}.yaml")


def read_spec(path: Path) -> ModelSpec:
    """Read one spec file, whose name must be the model's.

    Raises:
        SpecError: the file cannot be read or its content does not hold: one line an error.
    """
    try:
        # Through JSON, so that strict types still let a list be a tuple.
        content = json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")), default=str)
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SpecError(f"{path.name}: cannot be read as YAML: {reason}") from error
    try:
        spec = ModelSpec.model_validate_json(content, strict=True)
    except ValidationError as error:
        lines = [printable(f"{path.name}: {_line(detail)}") for detail in error.errors()]
        raise SpecError("\n".join(lines)) from error
    if spec.name != path.stem:
        raise SpecError(f"{path.name}: name: {json.dumps(spec.name)} must be the name of the file, {path.stem}")
    return spec


def printable(line: str) -> str:
    """One line on any terminal, whatever a key or a value of a user's file holds."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


def _line(error: ErrorDetails) -> str:
    """One error: the YAML path, the value, why it is wrong, and a value that works."""
    path = [str(part) for part in error["loc"] if part not in {"transformers", "gpt2", "torchvision"}]
    why = error["msg"].removeprefix("Value error, ")
    if not path:
        return why
    line = ".".join(path)
    if error["type"] == "extra_forbidden":
        keys = _keys(_example(path[:-1]))
        return f"{line}: is not a key" + (f"; one of {', '.join(keys)}" if keys else "")
    if error["type"] != "missing":
        line += _short(": {}", error["input"])
    return f"{line}: {why}" + _short("; such as {}", _example(path))


def _short(template: str, value: object) -> str:
    """``template`` with ``value``, or nothing where that would drown the line."""
    text = json.dumps(value, default=str)
    return template.format(text) if value is not None and len(text) <= _SHORT else ""


def _example(path: list[str]) -> object:
    """The value at ``path`` in a spec of this folder: the specs are their own examples."""
    for file in sorted(MODELS.glob("*.yaml")):
        node = cast("object", yaml.safe_load(file.read_text(encoding="utf-8")))
        for part in path:
            node = _child(node, part)
        if node is not None:
            return node
    return None


def _child(node: object, part: str) -> object:
    if isinstance(node, dict):
        return cast("dict[str, object]", node).get(part)
    if isinstance(node, list) and part.isdigit():
        return next(iter(cast("list[object]", node)[int(part) :]), None)
    return None


def _keys(node: object) -> list[str]:
    return list(cast("dict[str, object]", node)) if isinstance(node, dict) else []
