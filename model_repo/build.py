"""Builds a model repository: conversion, configuration, manifest, digest. What has been built is found again."""

import hashlib
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from model_repo.cache import BuildError, cache_path, cache_to_write, folder_in_making, has_size
from model_repo.check import repository_errors
from model_repo.config import served_name
from model_repo.conversion import Conversion, Report
from model_repo.ensemble import vocabulary_path
from model_repo.exported import ExportedModel
from model_repo.manifest import MANIFEST_NAME, Manifest, ManifestError, ManifestFile
from model_repo.recipe import Recipe
from model_repo.spec import TransformersSource
from model_repo.tree import configuration_files
from model_repo.vocabulary import VocabularyError, fetch_vocabulary, made_up_vocabulary


class NotBuilt(RuntimeError):  # noqa: N818 - a state, not a failure
    """A model repository that nothing has built here."""


@dataclass(frozen=True)
class ModelArtifact:
    """One model repository on this machine."""

    manifest: Manifest
    folder: Path
    """Where it lies on this machine, manifest included."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest in hex, 64 characters."""
        return self.manifest.digest


def built(recipe: Recipe) -> ModelArtifact:
    """The repository, where it has been built before.

    Raises:
        NotBuilt: it has not; the text names the command that does it.
    """
    artifact = _find(recipe)
    if artifact is None:
        raise NotBuilt(f"{recipe} is not built on this machine: run `triton-stack model build {recipe.arguments}`")
    return artifact


def build(recipe: Recipe, report: Report) -> ModelArtifact:
    """The repository, built unless it has been before; see ``Conversion.make`` for what that takes.

    Raises:
        BuildError: the device is not here, a tool is missing, or the conversion failed.
        model_repo.calibration.CalibrationError: there is no calibration data in the folder named.
    """
    if recipe.needs_engine:
        raise BuildError(f"{recipe}: a TensorRT engine is compiled on a T4, not here: `pulumi up` does it there")
    conversion = Conversion.of(recipe)
    exported = conversion.make(report)
    if exported.accuracy:
        report(f"{recipe.spec.name}: in INT8, {exported.accuracy}")
    with cache_to_write():
        _download_vocabulary(recipe)
        if not _find(recipe):
            _assemble(recipe, conversion, exported, _manifest(recipe, exported))
    artifact = built(recipe)
    source = _tokenized(recipe)
    if source and not _vocabulary_file(source).exists():
        report(
            f"{recipe.spec.name}: THE VOCABULARY IS MADE UP, its tokens mean nothing: it could not be downloaded; "
            f"to try again remove {artifact.folder}"
        )
    return artifact


def repositories() -> list[ModelArtifact]:
    """Every repository that has been built on this machine, whatever its options, by model and variant."""
    found: list[ModelArtifact] = []
    for path in (cache_path() / "repositories").glob(f"*/{MANIFEST_NAME}"):
        try:
            found.append(ModelArtifact(Manifest.from_bytes(path.read_bytes()), path.parent))
        except ManifestError:  # another version's
            continue
    return sorted(found, key=lambda each: (each.name, each.manifest.variant, each.manifest.precision, each.digest))


def _find(recipe: Recipe) -> ModelArtifact | None:
    exported = None if recipe.needs_engine else Conversion.of(recipe).find()
    if exported is None:
        return None
    manifest = _manifest(recipe, exported)
    folder = repository_folder(manifest.digest)
    sizes = {file.path: file.size_bytes for file in manifest.files} | {MANIFEST_NAME: len(manifest.to_bytes())}
    if not all(has_size(folder / path, size_bytes) for path, size_bytes in sizes.items()):
        return None
    return ModelArtifact(manifest, folder)


def _manifest(recipe: Recipe, exported: ExportedModel) -> Manifest:
    """The manifest of a repository, built or not: known from the export's record without reading the model."""
    files = [
        ManifestFile(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for path, content in text_files(recipe).items()
    ]
    files += [file.model_copy(update={"path": f"{_version_folder(recipe)}/{file.path}"}) for file in exported.files]
    return Manifest(
        name=recipe.spec.name,
        variant=recipe.variant.name,
        precision=recipe.precision,
        device=recipe.device,
        weights=exported.weights,
        accuracy=exported.accuracy,
        files=tuple(files),
    )


def text_files(recipe: Recipe) -> dict[str, bytes]:
    """Every file but the model's weights, by its path."""
    source = _tokenized(recipe)
    if source is None:
        return configuration_files(recipe)
    downloaded = _vocabulary_file(source)
    vocabulary = downloaded.read_bytes() if downloaded.exists() else made_up_vocabulary(source.architecture.vocab_size)
    return configuration_files(recipe) | {vocabulary_path(recipe.spec): vocabulary}


def _version_folder(recipe: Recipe) -> str:
    return f"{served_name(recipe)}/1"


def _tokenized(recipe: Recipe) -> TransformersSource | None:
    """The source of a model that the repository tokenizes texts for."""
    source = recipe.spec.source
    return source if recipe.spec.serving.ensemble and isinstance(source, TransformersSource) else None


def _vocabulary_file(source: TransformersSource) -> Path:
    """Where a downloaded vocabulary is kept."""
    return cache_path() / "vocabularies" / f"{source.hub.id.replace('/', '--')}-{source.hub.revision}.txt"


def _download_vocabulary(recipe: Recipe) -> None:
    source = _tokenized(recipe)
    if source is None or _vocabulary_file(source).exists():
        return
    try:
        vocabulary = fetch_vocabulary(source)
    except VocabularyError as error:
        raise BuildError(f"{recipe.spec.name}: {error}") from error
    if vocabulary:
        _vocabulary_file(source).parent.mkdir(exist_ok=True)
        partial = _vocabulary_file(source).with_suffix(".part")
        partial.write_bytes(vocabulary)
        partial.rename(_vocabulary_file(source))


def repository_folder(digest: str) -> Path:
    """Where this machine keeps the repository of a digest; it need not be there."""
    return cache_path() / "repositories" / digest


def _assemble(recipe: Recipe, conversion: Conversion, exported: ExportedModel, manifest: Manifest) -> None:
    """Lay out the repository, in place of one that has lost a file."""
    with folder_in_making(repository_folder(manifest.digest)) as folder:
        for path, content in text_files(recipe).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        version = folder / _version_folder(recipe)
        version.mkdir(parents=True, exist_ok=True)
        for file in exported.files:
            link_file(conversion.folder / file.path, version / file.path)
        (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        differences = manifest.check_folder(folder)
        if differences:
            raise BuildError(f"{conversion.folder} is damaged; remove it and build again: {'; '.join(differences)}")
        refused = repository_errors(folder, gpus=0 if recipe.device == "cpu" else 1)
        if refused:
            raise BuildError(f"Triton would refuse {recipe}: {'; '.join(refused)}")


def link_file(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, or a copy of it where there are no hard links."""
    try:
        target.hardlink_to(source)
    except OSError:  # not every file system has hard links
        shutil.copyfile(source, target)
