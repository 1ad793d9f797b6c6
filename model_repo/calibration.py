"""The samples that set the ranges of an INT8 model: a folder of ``.npz`` files, or numbers drawn from a seed."""

import hashlib
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from model_repo.exported import SEEDED_RANDOM
from model_repo.sample import NUMPY_TYPES, Array, sample_inputs
from model_repo.spec import ModelSpec

SEEDED_SAMPLES: Final = 80
"""How many are drawn where no folder is given."""

HOLD_OUT: Final = 5
"""Every fifth sample measures the accuracy instead of setting ranges."""

_SEED: Final = 5


class CalibrationError(ValueError):
    """Calibration data that cannot be used."""


@dataclass(frozen=True)
class CalibrationData:
    """Where calibration samples come from.

    A file holds one batch: an array for each input of the model, by its name, samples along the first axis.
    """

    folder: Path | None
    """None: samples are drawn from a seed, and fit no real traffic."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the files' names and bytes in hex, or ``seeded-random``.

        Raises:
            CalibrationError: there are no files.
        """
        if self.folder is None:
            return SEEDED_RANDOM
        total = hashlib.sha256()
        for path in self._files():
            with path.open("rb") as file:
                total.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return total.hexdigest()

    def split(self, spec: ModelSpec) -> tuple[dict[str, Array], dict[str, Array]]:
        """The samples that set the ranges and those held out, each by input name.

        Raises:
            CalibrationError: a file is not what ``spec`` asks for, or there are fewer than five samples.
        """
        samples = self._samples(spec)
        count = len(next(iter(samples.values())))
        if count < HOLD_OUT:
            raise CalibrationError(
                f"{self.folder}: {count} samples are too few, every fifth is held out to measure the accuracy: "
                "give at least 5, better 100"
            )
        held_out = np.arange(count) % HOLD_OUT == HOLD_OUT - 1
        return (
            {name: values[~held_out] for name, values in samples.items()},
            {name: values[held_out] for name, values in samples.items()},
        )

    def _samples(self, spec: ModelSpec) -> dict[str, Array]:
        if self.folder is None:
            return sample_inputs(spec, SEEDED_SAMPLES, _SEED)
        batches = [_read(path, spec) for path in self._files()]
        return {tensor.name: np.concatenate([batch[tensor.name] for batch in batches]) for tensor in spec.inputs}

    def _files(self) -> list[Path]:
        assert self.folder  # noqa: S101 - the callers' condition
        files = sorted(self.folder.glob("*.npz"))
        if not files:
            raise CalibrationError(
                f"{self.folder}: holds no .npz file; write each by numpy.savez(FILE, INPUT=ARRAY, …), samples first"
            )
        return files


def _read(path: Path, spec: ModelSpec) -> dict[str, Array]:
    """One file's arrays, held against the spec's inputs."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays: dict[str, Array] = dict(file)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise CalibrationError(f"{path}: cannot be read as .npz: {error}") from error
    wanted = [tensor.name for tensor in spec.inputs]
    if sorted(arrays) != sorted(wanted):
        raise CalibrationError(f"{path}: holds {', '.join(sorted(arrays))}; {spec.name} takes {', '.join(wanted)}")
    for tensor in spec.inputs:
        array, dtype = arrays[tensor.name], NUMPY_TYPES[tensor.dtype]
        if array.dtype != dtype or array.shape[1:] != tensor.dims:
            raise CalibrationError(
                f"{path}: {tensor.name} is {array.dtype} {list(array.shape)}; "
                f"{spec.name} takes {np.dtype(dtype)} [samples, {', '.join(map(str, tensor.dims))}]"
            )
    if len({len(array) for array in arrays.values()}) > 1:
        raise CalibrationError(f"{path}: its arrays have different numbers of samples")
    return arrays
