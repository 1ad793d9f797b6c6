"""Builds a model repository: conversion, configuration, manifest, digest. What has been built is found again."""

import hashlib
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from model_repo.cache import BuildError, cache_path, cache_to_write, folder_in_making, has_size
from model_repo.config import CONFIG_NAME, config_pbtxt
from model_repo.conversion import Conversion, Report
from model_repo.exported import ExportedModel
from model_repo.manifest import MANIFEST_NAME, Manifest, ManifestFile
from model_repo.recipe import Recipe

_NAME_A_DIGEST: Final = "name the digest of a published one in `triton-stack:model.digest`"


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
        raise NotBuilt(
            f"{recipe} is not built on this machine: "
            + (_NAME_A_DIGEST if _needs_t4(recipe) else f"run `triton-stack model build {_arguments(recipe)}`")
        )
    return artifact


def build(recipe: Recipe, report: Report) -> ModelArtifact:
    """The repository, built unless it has been before; see ``Conversion.make`` for what that takes.

    Raises:
        BuildError: the device is not here, a tool is missing, or the conversion failed.
        model_repo.calibration.CalibrationError: there is no calibration data in the folder named.
    """
    if _needs_t4(recipe):
        raise BuildError(f"{recipe}: a TensorRT engine is compiled on a T4, not here: {_NAME_A_DIGEST}")
    conversion = Conversion.of(recipe)
    exported = conversion.make(report)
    if exported.accuracy:
        report(f"{recipe.spec.name}: in INT8, {exported.accuracy}")
    with cache_to_write():
        if not _find(recipe):
            _assemble(conversion, exported, _manifest(recipe, exported), config_pbtxt(recipe))
    return built(recipe)


def _arguments(recipe: Recipe) -> str:
    """What names the recipe on the command line; defaults are left out."""
    options = [f"--variant {recipe.variant.name}"]
    if recipe.precision != "fp32":
        options.append(f"--precision {recipe.precision}")
    if recipe.calibration_data:
        options.append(f"--calibration-data {recipe.calibration_data}")
    if recipe.device != "cpu":
        options.append(f"--device {recipe.device}")
    return " ".join([recipe.spec.name, *options])


def _needs_t4(recipe: Recipe) -> bool:
    return recipe.device == "t4" and recipe.variant.framework == "trt"


def _find(recipe: Recipe) -> ModelArtifact | None:
    exported = None if _needs_t4(recipe) else Conversion.of(recipe).find()
    if exported is None:
        return None
    manifest = _manifest(recipe, exported)
    folder = _repository_folder(manifest)
    sizes = {file.path: file.size_bytes for file in manifest.files} | {MANIFEST_NAME: len(manifest.to_bytes())}
    if not all(has_size(folder / path, size_bytes) for path, size_bytes in sizes.items()):
        return None
    return ModelArtifact(manifest, folder)


def _manifest(recipe: Recipe, exported: ExportedModel) -> Manifest:
    """The manifest of a repository, built or not: known from the export's record without reading the model."""
    name, config = recipe.spec.name, config_pbtxt(recipe).encode()
    files = (
        ManifestFile(path=f"{name}/{CONFIG_NAME}", size_bytes=len(config), sha256=hashlib.sha256(config).hexdigest()),
        *(file.model_copy(update={"path": f"{name}/1/{file.path}"}) for file in exported.files),
    )
    return Manifest(
        name=name,
        variant=recipe.variant.name,
        precision=recipe.precision,
        device=recipe.device,
        weights=exported.weights,
        accuracy=exported.accuracy,
        files=files,
    )


def _repository_folder(manifest: Manifest) -> Path:
    return cache_path() / "repositories" / manifest.digest


def _assemble(conversion: Conversion, exported: ExportedModel, manifest: Manifest, config: str) -> None:
    """Lay out the repository, in place of one that has lost a file."""
    with folder_in_making(_repository_folder(manifest)) as folder:
        (folder / manifest.name / "1").mkdir(parents=True)
        (folder / manifest.name / CONFIG_NAME).write_text(config)
        for file in exported.files:
            _link(conversion.folder / file.path, folder / manifest.name / "1" / file.path)
        (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        differences = manifest.check_folder(folder)
        if differences:
            raise BuildError(f"{conversion.folder} is damaged; remove it and build again: {'; '.join(differences)}")


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # not every file system has hard links
        shutil.copyfile(source, target)
