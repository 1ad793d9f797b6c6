"""What is served: one YAML file a model, read into a ``ModelSpec``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from model_repo.serving import Serving
from model_repo.yamlfile import SpecError, error_lines, read_value

MODELS: Final = Path(__file__).parent / "models"
"""The folder of the specs: ``<model name>.yaml``."""

# GPT-2's tokens are no WordPiece, and what it gives are no classes.
_PIPELINES: Final = {"transformers": "text", "torchvision": "image"}
"""By the kind of a model's source, the kind of pipeline that can be put around it."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


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


class _Classes(_Value):
    """What a classifier's scores become: the most probable classes, by name."""

    labels: str = Field(pattern=r"^[\w-]+\.txt$")
    """File beside the spec with the classes' names, a line each, in the order of the scores."""
    top_k: PositiveInt
    """How many classes an answer has."""


class TextPipeline(_Classes):
    """Uncased text → WordPiece tokens → model → softmax → classes."""

    kind: Literal["text"]


class ImagePipeline(_Classes):
    """Image file → pixels as ``torchvision``'s evaluation transform makes them → model → softmax → classes."""

    kind: Literal["image"]
    resize: PositiveInt
    """The shorter side in pixels before the centre of the model's size is cut out."""
    mean: tuple[float, float, float]
    """Of red, green and blue, which lie in 0 to 1; subtracted."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    """Of the same; divided by."""


class ModelSpec(_Value):
    """One model: where it comes from, its interface and its batch sizes. Outputs are raw scores."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,38}$")
    """The name in buckets, endpoints and pods, and of the file."""
    description: str
    source: Annotated[TransformersSource | Gpt2Source | TorchvisionSource, Field(discriminator="kind")]
    parameters: PositiveInt
    """Numbers that the weights consist of: what a GPU must hold."""
    inputs: tuple[InputSpec, ...]
    """In the order of the model's arguments."""
    outputs: tuple[TensorSpec]
    max_batch_size: PositiveInt
    """The largest batch that Triton sends to the model."""
    profile: BatchProfile
    serving: Serving = Serving()
    pipeline: Annotated[TextPipeline | ImagePipeline, Field(discriminator="kind")] | None = None
    """What an ensemble puts around the model; without it, clients send and get tensors only."""

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
        if wrong := self.serving.beyond(self.max_batch_size) or self._pipeline_error():
            raise ValueError(wrong)
        return self

    def _pipeline_error(self) -> str | None:
        if self.pipeline is None:
            return "serving.ensemble: true needs a section pipeline" if self.serving.ensemble else None
        if self.pipeline.kind != _PIPELINES.get(self.source.kind):
            return f"pipeline.kind: a {self.source.kind} model takes {_PIPELINES.get(self.source.kind, 'none')}"
        if len(self.outputs[0].dims) != 1 or self.pipeline.top_k > self.outputs[0].dims[0]:
            return f"pipeline.top_k: {self.pipeline.top_k} classes of outputs.0.dims {list(self.outputs[0].dims)}"
        if isinstance(self.pipeline, ImagePipeline) and self.pipeline.resize < max(self.inputs[0].dims[1:]):
            return f"pipeline.resize: {self.pipeline.resize} is less than the image of inputs.0.dims"
        return None

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
    return read_value(path, ModelSpec, MODELS)


def changed(spec: ModelSpec, changes: Mapping[str, object]) -> ModelSpec:
    """The spec with other values at its top level, held against the rest of it.

    Raises:
        SpecError: they do not go together: one line an error.
    """
    try:
        return ModelSpec.model_validate({**spec.model_dump(), **changes})
    except ValidationError as error:
        raise SpecError("\n".join(error_lines(error, spec.name, MODELS))) from error
