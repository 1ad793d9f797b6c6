"""Files of measurements: what is written is read, and what others measured stays."""

import shutil
from pathlib import Path

import pytest

from capacity.measurements import (
    SHIPPED_FOLDER,
    Measurement,
    MeasurementError,
    find_measurement,
    read_measurements,
    write_measurements,
)

SHIPPED = SHIPPED_FOLDER / "bert-large-g4dn.csv"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Path(shutil.copy(SHIPPED, tmp_path))


@pytest.fixture
def row() -> Measurement:
    """One that the shipped file has, measured again."""
    found = find_measurement(read_measurements(SHIPPED), variant="trt-ig-db", instance_type="ml.g4dn.xlarge")
    return found.model_copy(update={"model_latency_ms": 412.5})


def test_a_row_is_replaced_where_it_stands_and_the_others_keep_their_bytes(file: Path, row: Measurement) -> None:
    write_measurements(file, [row])
    before, after = (path.read_text().splitlines() for path in (SHIPPED, file))
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    # The table's own spelling of the variant is read as the variant's name.
    assert [new for old, new in changed if old.replace("trt-db-ig", "trt-ig-db") != new] == [
        "trt-ig-db,ml.g4dn.xlarge,4,1,0.7364,10,3192,412.5,7.364"
    ]
    assert find_measurement(read_measurements(file), variant=row.variant, instance_type=row.instance_type) == row


def test_a_row_of_another_type_is_added_after_them(file: Path, row: Measurement) -> None:
    other = row.model_copy(update={"instance_type": "ml.g4dn.4xlarge"})
    write_measurements(file, [other])
    assert read_measurements(file) == (*read_measurements(SHIPPED), other)


def test_a_new_file_has_the_columns_and_the_rows(tmp_path: Path, row: Measurement) -> None:
    write_measurements(tmp_path / "new.csv", [row])
    assert read_measurements(tmp_path / "new.csv") == (row,)
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]


def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path, row: Measurement) -> None:
    other = tmp_path / "other.csv"
    other.write_text("name,price\nbolt,1\n")
    with pytest.raises(MeasurementError, match=r"other\.csv:2"):
        write_measurements(other, [row])
    assert other.read_text() == "name,price\nbolt,1\n"


def test_a_folder_that_is_not_there_is_told_in_a_line(tmp_path: Path, row: Measurement) -> None:
    with pytest.raises(MeasurementError, match="cannot be written: No such file") as caught:
        write_measurements(tmp_path / "none" / "new.csv", [row])
    assert "\n" not in str(caught.value)
