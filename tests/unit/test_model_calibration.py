"""Calibration data: what is read, what is held out, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from model_repo.calibration import HOLD_OUT, SEEDED_SAMPLES, CalibrationData, CalibrationError
from model_repo.sample import Array, sample_inputs
from model_repo.spec import load_spec

SPEC = load_spec("bert-small")


def save(path: Path, arrays: dict[str, Array]) -> None:
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType] - its stub takes no arrays by name


def test_every_fifth_sample_is_held_out_across_files(tmp_path: Path) -> None:
    whole = sample_inputs(SPEC, 12)
    save(tmp_path / "1.npz", {name: values[7:] for name, values in whole.items()})
    save(tmp_path / "0.npz", {name: values[:7] for name, values in whole.items()})
    seen, held_out = CalibrationData(tmp_path).split(SPEC)
    for name, values in whole.items():
        np.testing.assert_array_equal(held_out[name], values[[4, 9]])
        np.testing.assert_array_equal(seen[name], np.delete(values, [4, 9], axis=0))


def test_without_a_folder_samples_are_drawn_and_are_the_same_each_time() -> None:
    seen, held_out = CalibrationData(None).split(SPEC)
    assert len(held_out["input_ids"]) == SEEDED_SAMPLES // HOLD_OUT
    assert len(seen["input_ids"]) == SEEDED_SAMPLES - SEEDED_SAMPLES // HOLD_OUT
    np.testing.assert_array_equal(seen["input_ids"], CalibrationData(None).split(SPEC)[0]["input_ids"])


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"input_ids": np.zeros((5, 128), np.int32)}, "holds input_ids; bert-small takes input_ids, attention_mask"),
        ({"input_ids": np.zeros((5, 128), np.int64)}, r"input_ids is int64 \[5, 128\]; .* int32 \[samples, 128\]"),
        ({"attention_mask": np.zeros((5, 64), np.int32)}, r"attention_mask is int32 \[5, 64\]"),
        ({"attention_mask": np.zeros((4, 128), np.int32)}, "different numbers of samples"),
        ({"input_ids": np.array([None])}, "cannot be read as .npz: Object arrays"),
    ],
)
def test_a_file_that_does_not_fit_the_model_is_refused_by_name(
    tmp_path: Path, arrays: dict[str, Array], reason: str
) -> None:
    save(tmp_path / "bad.npz", arrays if len(arrays) == 1 and "holds" in reason else sample_inputs(SPEC, 5) | arrays)
    with pytest.raises(CalibrationError, match=rf"bad\.npz: .*{reason}|bad\.npz: {reason}"):
        CalibrationData(tmp_path).split(SPEC)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04cut"])
def test_what_is_no_npz_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(CalibrationError, match=r"bad\.npz: cannot be read"):
        CalibrationData(tmp_path).split(SPEC)


def test_a_folder_without_samples_or_with_too_few_is_refused_with_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"no \.npz file; write each by numpy\.savez"):
        _ = CalibrationData(tmp_path).digest
    save(tmp_path / "0.npz", sample_inputs(SPEC, 4))
    with pytest.raises(CalibrationError, match="4 samples are too few"):
        CalibrationData(tmp_path).split(SPEC)
