"""Conversions: a model in one form, made once by the programs of an environment of its own and kept in the cache."""

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final, Self

import yaml
from pydantic import ValidationError

from model_repo.cache import BuildError, cache_path, cache_to_write, folder_in_making, has_size
from model_repo.calibration import CalibrationData
from model_repo.exported import RECORD_NAME, SEEDED_RANDOM, ExportedModel, Form
from model_repo.recipe import Recipe
from model_repo.spec import ModelSpec

Report = Callable[[str], None]
"""Takes one line of progress."""

_ROOT: Final = Path(__file__).parents[1]

# What decides the bytes of an export, besides the spec.
_EXPORT_CODE: Final = ("export.py", "sample.py")
_EXPORTERS: Final = frozenset({"torch", "torchvision", "transformers", "onnx", "onnx-ir", "onnxscript"})
_QUANTIZE_CODE: Final = ("quantize.py", "calibration.py", "sample.py")
_QUANTIZERS: Final = frozenset({"onnx", "onnxruntime", "numpy"})

_UV: Final = (sys.executable, "-m", "uv")


@dataclass(frozen=True)
class Conversion:
    """One form of one model: what decides its bytes."""

    spec: ModelSpec
    form: Form
    data: CalibrationData | None = None
    """What calibrates an INT8 model; None for the other forms."""

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """What a repository of ``recipe`` is made from: on a T4, a TensorRT engine is built from the ONNX file."""
        if recipe.device == "t4" and recipe.variant.framework == "pt":
            return cls(recipe.spec, "torchscript-fp16" if recipe.precision == "fp16" else "torchscript")
        if recipe.precision == "int8":
            return cls(recipe.spec, "int8", CalibrationData(recipe.calibration_data))
        return cls(recipe.spec, "onnx")

    @cached_property
    def folder(self) -> Path:
        """Where it is kept, by all that decides its bytes; it need not exist yet.

        Raises:
            model_repo.calibration.CalibrationError: there is no calibration data in the folder named.
        """
        digest = hashlib.sha256(json.dumps(self._key(), sort_keys=True).encode()).hexdigest()
        return cache_path() / "models" / f"{self.spec.name}-{self.form}-{digest[:16]}"

    @property
    def export(self) -> "Conversion":
        """What comes from PyTorch: itself, or what it is quantised from."""
        return Conversion(self.spec, "onnx") if self.form == "int8" else self

    def find(self) -> ExportedModel | None:
        """Its record, where it has been made before and lies there in full size."""
        path = self.folder / RECORD_NAME
        if not path.is_file():
            return None
        try:
            record = ExportedModel.model_validate_json(path.read_bytes())
        except ValidationError:  # another version's: make it again
            return None
        if not all(has_size(self.folder / file.path, file.size_bytes) for file in record.files):
            return None
        if self.form == "int8":
            source = self.export.find()
            return record if source and source.sha256 == record.quantized_from else None
        return record

    def make(self, report: Report) -> ExportedModel:
        """Its record, once it has been made, now or before.

        The first on a machine installs PyTorch, 5.5 GB, into an environment of its own in the cache.

        Raises:
            BuildError: a tool is missing, there is no room, or the conversion failed.
            model_repo.calibration.CalibrationError: there is no calibration data in the folder named.
        """
        record = self._made(report)
        if record.weights == SEEDED_RANDOM:
            report(
                f"{self.spec.name}: WEIGHTS ARE RANDOM, its answers mean nothing: they could not be downloaded; "
                f"to try again remove {self.export.folder}"
            )
        if record.accuracy and record.accuracy.data == SEEDED_RANDOM:
            report(
                f"{self.spec.name}: CALIBRATED ON RANDOM SAMPLES, its answers to real ones may be wrong; "
                "give some by --calibration-data"
            )
        return record

    def _made(self, report: Report) -> ExportedModel:
        record = self.find()
        if record is None:
            with cache_to_write():
                record = self.find() or self._run(report)  # another process may have made it while this one waited
        return record

    def _key(self) -> dict[str, Any]:
        if self.data is None:
            return {
                "spec": self.spec.model_dump(mode="json", include={"source", "inputs", "outputs", "profile"}),
                "form": self.form,
                "code": _hashes(_EXPORT_CODE),
                "packages": _locked(_EXPORTERS),
            }
        return {
            "source": self.export._key(),
            "data": self.data.digest,
            "code": _hashes(_QUANTIZE_CODE),
            "packages": _locked(_QUANTIZERS),
        }

    def _run(self, report: Report) -> ExportedModel:
        """Run the program of this form in its environment; the folder appears whole or not at all."""
        if self.data is not None:
            self.export._made(report)
        python = str(_environment(report) / "bin" / "python")
        with folder_in_making(self.folder) as folder:
            spec_file = folder / f"{self.spec.name}.yaml"
            spec_file.write_text(yaml.safe_dump(self.spec.model_dump(mode="json"), sort_keys=False))
            if self.data is None:
                report(f"{self.spec.name}: exporting from PyTorch to {self.form}")
                program = ["model_repo.export", str(spec_file), str(folder), self.form]
            else:
                report(f"{self.spec.name}: calibrating INT8")
                program = ["model_repo.quantize", str(spec_file), str(self.export.folder), str(folder)]
                program += [str(self.data.folder.absolute())] if self.data.folder else []
            # A resolver that does not answer would hold up the export by its own ten seconds and more.
            _run_logged(self.form, [python, "-m", *program], {"RES_OPTIONS": "timeout:1 attempts:2"}, report)
        record = self.find()
        if record is None:
            raise BuildError(f"{self.folder}: something removed the conversion; build again")
        return record


def _environment(report: Report) -> Path:
    """The environment of the ``export`` group, installed."""
    environment = cache_path() / "export-environment"
    if not environment.exists():
        report(f"installing PyTorch, 5.5 GB, once, into {environment}")
    uv = [*_UV, "sync", "--frozen", "--only-group", "export", "--python", sys.executable]
    _run_logged("install", uv, {"UV_PROJECT_ENVIRONMENT": str(environment)}, report)
    return environment


def _hashes(names: tuple[str, ...]) -> list[str]:
    return [hashlib.sha256((Path(__file__).parent / name).read_bytes()).hexdigest() for name in names]


@cache
def _locked(names: frozenset[str]) -> list[str]:
    """The locked versions of packages."""
    packages = tomllib.loads((_ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    return sorted(f"{package['name']}=={package['version']}" for package in packages if package["name"] in names)


def _run_logged(name: str, command: list[str], environment: dict[str, str], report: Report) -> None:
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
