"""Which model repository a stack serves."""

from dataclasses import dataclass

import pulumi

from components.published_model import PublishedModel
from model_repo.build import ModelArtifact, built
from model_repo.manifest import repository_prefix
from model_repo.recipe import Recipe
from model_repo.spec import load_spec
from model_repo.variant import parse_variant
from stacks.settings import ModelSettings


@dataclass(frozen=True)
class ServedModel:
    """A repository by its digest, and its files where the stack publishes them itself."""

    name: str
    digest: str
    artifact: ModelArtifact | None
    """None: the digest is in the model store already."""

    @property
    def prefix(self) -> str:
        """Where the repository lies in a model store, without a slash at its end."""
        return repository_prefix(self.name, self.digest)


def recipe(settings: ModelSettings) -> Recipe:
    """What the repository of the settings is made of."""
    return Recipe(load_spec(settings.name), parse_variant(settings.variant), settings.precision, settings.device)


def served_model(settings: ModelSettings) -> ServedModel:
    """The repository that the settings name: by digest, or the one that was built on this machine.

    Raises:
        model_repo.build.NotBuilt: No digest is named and nothing was built.
    """
    if settings.digest is not None:
        return ServedModel(settings.name, settings.digest, artifact=None)
    artifact = built(recipe(settings))
    return ServedModel(settings.name, artifact.digest, artifact)


def model_uri(name: str, store: pulumi.Input[str], model: ServedModel) -> pulumi.Output[str]:
    """Where a store has the repository, without a slash at the end; known once all of it is there.

    Args:
        name: of the resource that publishes it, where the stack does.
        store: URL of the model store.
        model: what is served.
    """
    if model.artifact is None:
        return pulumi.Output.concat(store, "/", model.prefix)
    return PublishedModel(name, {"store": store, "artifact": model.artifact}).uri
