"""Builds a model repository: export, configuration, manifest, digest. What has been built once is found again."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

import platformdirs
import yaml
from filelock import FileLock
from pydantic import ValidationError

from model_repo.check import repository_errors
from model_repo.config import served_name
from model_repo.ensemble import vocabulary_path
from model_repo.exported import ONNX_NAME, RECORD_NAME, SEEDED_RANDOM, ExportedModel
from model_repo.manifest import MANIFEST_NAME, Manifest, ManifestError, ManifestFile
from model_repo.recipe import Recipe
from model_repo.spec import ModelSpec, TransformersSource
from model_repo.tree import configuration_files
from model_repo.vocabulary import VocabularyError, fetch_vocabulary, made_up_vocabulary

Report = Callable[[str], None]
"""Takes one line of progress."""

_ROOT: Final = Path(__file__).parents[1]

# What decides the bytes of an export, besides the spec.
_EXPORT_CODE: Final = ("export.py", "sample.py")
_EXPORTERS: Final = frozenset({"torch", "torchvision", "transformers", "onnx", "onnx-ir", "onnxscript"})

_UV: Final = (sys.executable, "-m", "uv")

_NAME_A_DIGEST: Final = "name the digest of a published one in `triton-stack:model.digest`"


class BuildError(RuntimeError):
    """A model repository that could not be built."""


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


def cache_path() -> Path:
    """The folder that outlives checkouts: ``TRITON_STACK_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("TRITON_STACK_CACHE") or platformdirs.user_cache_path("triton-stack"))


def built(recipe: Recipe) -> ModelArtifact:
    """The repository, where it has been built before.

    Raises:
        NotBuilt: it has not; the text names the command that does it.
    """
    artifact = _find(recipe)
    if artifact is None:
        raise NotBuilt(
            f"{recipe} is not built on this machine: "
            + (
                f"run `triton-stack model build {recipe.spec.name} --variant {recipe.variant.name}"
                + f"{'' if recipe.precision == 'fp32' else f' --precision {recipe.precision}'}`"
                if recipe.device == "cpu"
                else _NAME_A_DIGEST
            )
        )
    return artifact


def build(recipe: Recipe, report: Report) -> ModelArtifact:
    """The repository, built unless it has been before.

    The first build on a machine installs PyTorch, 5.5 GB, into an environment of its own in the cache.

    Raises:
        BuildError: the device is not here, a tool is missing, or the export failed.
    """
    if recipe.device != "cpu":
        raise BuildError(f"{recipe}: what a T4 serves is compiled on a T4, not here: {_NAME_A_DIGEST}")
    artifact = _find(recipe)
    if artifact is None:
        try:
            _build(recipe, report)
        except OSError as error:
            raise BuildError(f"{cache_path()}: {error}; make room there, or set TRITON_STACK_CACHE") from error
        artifact = built(recipe)
    if artifact.manifest.weights == SEEDED_RANDOM:
        report(
            f"{recipe.spec.name}: WEIGHTS ARE RANDOM, its answers mean nothing: they could not be downloaded; "
            f"to try again remove {export_folder(recipe.spec)}"
        )
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


def _build(recipe: Recipe, report: Report) -> None:
    cache_path().mkdir(parents=True, exist_ok=True)
    with FileLock(cache_path() / "model_repo.lock"):
        if _find(recipe):  # by another process, while this one waited
            return
        exported = _read_record(recipe.spec) or _export(recipe.spec, report)
        _download_vocabulary(recipe)
        _assemble(recipe, _manifest(recipe, exported))


def _find(recipe: Recipe) -> ModelArtifact | None:
    exported = _read_record(recipe.spec)
    if exported is None:
        return None
    manifest = _manifest(recipe, exported)
    folder = repository_folder(manifest.digest)
    sizes = {file.path: file.size_bytes for file in manifest.files} | {MANIFEST_NAME: len(manifest.to_bytes())}
    if not all(_has_size(folder / path, size_bytes) for path, size_bytes in sizes.items()):
        return None
    return ModelArtifact(manifest, folder)


def _manifest(recipe: Recipe, exported: ExportedModel) -> Manifest:
    """The manifest of a repository, built or not: known from the export's record without reading the model."""
    files = [
        ManifestFile(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for path, content in _text_files(recipe).items()
    ]
    onnx = ManifestFile(path=_onnx_path(recipe), size_bytes=exported.size_bytes, sha256=exported.sha256)
    return Manifest(
        name=recipe.spec.name,
        variant=recipe.variant.name,
        precision=recipe.precision,
        device=recipe.device,
        weights=exported.weights,
        files=(*files, onnx),
    )


def _text_files(recipe: Recipe) -> dict[str, bytes]:
    """Every file but the model's weights, by its path."""
    source = _tokenized(recipe)
    if source is None:
        return configuration_files(recipe)
    downloaded = _vocabulary_file(source)
    vocabulary = downloaded.read_bytes() if downloaded.exists() else made_up_vocabulary(source.architecture.vocab_size)
    return configuration_files(recipe) | {vocabulary_path(recipe.spec): vocabulary}


def _onnx_path(recipe: Recipe) -> str:
    return f"{served_name(recipe)}/1/{ONNX_NAME}"


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


def export_folder(spec: ModelSpec) -> Path:
    """Where the export of ``spec`` is kept, by all that decides its bytes; it need not exist yet."""
    key = {
        "spec": spec.model_dump(mode="json", include={"source", "inputs", "outputs", "profile"}),
        "code": [hashlib.sha256((Path(__file__).parent / name).read_bytes()).hexdigest() for name in _EXPORT_CODE],
        "packages": _exporters(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_path() / "models" / f"{spec.name}-{digest[:16]}"


@cache
def _exporters() -> list[str]:
    """The locked versions of the packages that export."""
    packages = tomllib.loads((_ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    return sorted(f"{package['name']}=={package['version']}" for package in packages if package["name"] in _EXPORTERS)


def _read_record(spec: ModelSpec) -> ExportedModel | None:
    """The record of an export that is there in its full size."""
    folder = export_folder(spec)
    if not (folder / RECORD_NAME).exists():
        return None
    try:
        exported = ExportedModel.model_validate_json((folder / RECORD_NAME).read_bytes())
    except ValidationError:  # another version's: export again
        return None
    return exported if _has_size(folder / ONNX_NAME, exported.size_bytes) else None


def _has_size(path: Path, size_bytes: int) -> bool:
    """What a file cut short fails at once, and a changed one where it is served: there its digest is checked."""
    return path.is_file() and path.stat().st_size == size_bytes


def _export(spec: ModelSpec, report: Report) -> ExportedModel:
    """Run the export in its environment; its folder appears whole or not at all."""
    environment = cache_path() / "export-environment"
    if not environment.exists():
        report(f"installing PyTorch, 5.5 GB, once, into {environment}")
    uv = [*_UV, "sync", "--frozen", "--only-group", "export", "--python", sys.executable]
    _run("install", uv, {"UV_PROJECT_ENVIRONMENT": str(environment)}, report)
    report(f"{spec.name}: exporting from PyTorch to ONNX")
    with _folder_in_making(export_folder(spec)) as folder:
        (folder / f"{spec.name}.yaml").write_text(yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False))
        python = [str(environment / "bin" / "python"), "-m", "model_repo.export"]
        # A resolver that does not answer would hold up the export by its own ten seconds and more.
        _run(
            "export",
            [*python, str(folder / f"{spec.name}.yaml"), str(folder)],
            {"RES_OPTIONS": "timeout:1 attempts:2"},
            report,
        )
    exported = _read_record(spec)
    if exported is None:
        raise BuildError(f"{export_folder(spec)}: something removed the export; build again")
    return exported


def _assemble(recipe: Recipe, manifest: Manifest) -> None:
    """Lay out the repository, in place of one that has lost a file."""
    with _folder_in_making(repository_folder(manifest.digest)) as folder:
        for path, content in _text_files(recipe).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        (folder / _onnx_path(recipe)).parent.mkdir(parents=True, exist_ok=True)
        _link(export_folder(recipe.spec) / ONNX_NAME, folder / _onnx_path(recipe))
        (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        differences = manifest.check_folder(folder)
        if differences:
            raise BuildError(
                f"{export_folder(recipe.spec)} is damaged; remove it and build again: {'; '.join(differences)}"
            )
        refused = repository_errors(folder, gpus=0)
        if refused:
            raise BuildError(f"Triton would refuse {recipe}: {'; '.join(refused)}")


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # not every file system has hard links
        shutil.copyfile(source, target)


@contextmanager
def _folder_in_making(target: Path) -> Generator[Path]:
    """A folder that takes the place of ``target`` once the block has filled it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        yield folder
        if target.exists():
            target.rename(Path(temporary) / "old")
        folder.rename(target)


def _run(name: str, command: list[str], environment: dict[str, str], report: Report) -> None:
    """Run ``command`` in the checkout, reporting its standard output line by line; the rest goes to a log."""
    log = cache_path() / "logs" / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w+") as errors:
        with subprocess.Popen(
            command, cwd=_ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            assert process.stdout  # noqa: S101 - a pipe, by the line above
            for line in process.stdout:
                report(line.rstrip())
        if process.returncode:
            errors.seek(0)
            last = next((line.strip() for line in reversed(errors.readlines()) if line.strip()), "no output")
            raise BuildError(f"{name} failed with exit status {process.returncode}: {last} (all of it: {log})")
