"""Which model repository a stack serves, and how it comes into a model store."""

from dataclasses import dataclass

import pulumi

from components.copied_model import CopiedModel
from components.published_model import PublishedModel
from model_repo.build import ModelArtifact, built
from model_repo.compatibility import triton_releases
from model_repo.engine import EngineOrder, engine_order, prepared_engine
from model_repo.manifest import repository_prefix
from model_repo.recipe import Recipe
from model_repo.spec import load_spec
from model_repo.variant import parse_variant
from stacks.settings import ModelSettings, Settings


@dataclass(frozen=True)
class ServedModel:
    """A repository that is in the model store, one of this machine, or one around an engine that a T4 compiles."""

    name: str
    digest: str | None
    """None: it follows from the engine."""
    artifact: ModelArtifact | None
    """What this machine has: the repository, or what the engine is built from; None: all of it is in the store."""
    order: EngineOrder | None = None
    """The engine to build; None: no engine, or it has been built."""


@dataclass(frozen=True)
class StoredModel:
    """A repository in a model store."""

    name: str
    store: pulumi.Input[str]
    """URL of the model store."""
    digest: pulumi.Input[str]
    uri: pulumi.Output[str]
    """Of the repository, without a slash at its end; known once all of it is there."""

    @property
    def prefix(self) -> pulumi.Output[str]:
        """Where in the store it is, without a slash at its end."""
        return pulumi.Output.from_input(self.digest).apply(lambda digest: repository_prefix(self.name, digest))


def recipe(settings: ModelSettings) -> Recipe:
    """What the repository of the settings is made of."""
    return Recipe(load_spec(settings.name), parse_variant(settings.variant), settings.precision, settings.device)


def largest_repository_bytes(settings: ModelSettings) -> int:
    """What the model's repository may weigh: its weights in FP32, which no precision exceeds.

    From the spec, for a repository that is named by its digest is not here to be weighed.
    """
    return 4 * load_spec(settings.name).parameters


def served_model(settings: Settings) -> ServedModel:
    """The repository that the settings name: by digest, or the one that this machine has built or prepared.

    Raises:
        model_repo.build.NotBuilt: No digest is named and nothing was built.
    """
    model = settings.model
    if model.digest is not None:
        return ServedModel(model.name, model.digest, artifact=None)
    asked = recipe(model)
    if not asked.needs_engine:
        artifact = built(asked)
        return ServedModel(model.name, artifact.digest, artifact)
    exported, source = prepared_engine(asked)
    order = engine_order(asked, exported, triton_releases()[settings.triton.release], f"sources/{source.digest}")
    return ServedModel(model.name, None, source, order)


def stored_model(name: str, store: pulumi.Input[str], model: ServedModel) -> StoredModel:
    """A model whose digest is known, in a store: this machine publishes it, unless it is there.

    Args:
        name: Of the resource that publishes it.
        store: URL of the model store.
        model: What is served.
    """
    assert model.digest is not None  # noqa: S101 - by the callers: an engine's digest is not known
    if model.artifact:
        uri = PublishedModel(name, {"store": store, "artifact": model.artifact}).uri
    else:
        uri = pulumi.Output.concat(store, "/", repository_prefix(model.name, model.digest))
    return StoredModel(model.name, store, model.digest, uri)


def published_source(name: str, store: pulumi.Input[str], source: ModelArtifact, order: EngineOrder) -> PublishedModel:
    """What an engine is built from, in the store where it is built."""
    return PublishedModel(name, {"store": store, "artifact": source, "prefix": order.source_prefix})


def copied_model(name: str, store: pulumi.Input[str], source: StoredModel) -> StoredModel:
    """The same repository in another store."""
    copy = CopiedModel(name, {"source": source.store, "store": store, "model": source.name, "digest": source.digest})
    return StoredModel(source.name, store, source.digest, copy.uri)
