"""Load-test results: what one instance of a type sustains with one variant of a model."""

import csv
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_repo.variant import parse_variant

SHIPPED_FOLDER = Path(__file__).parent / "measurements"


class MeasurementError(ValueError):
    """A measurement file that cannot be read, or a measurement that is not there."""


class Measurement(BaseModel):
    """One row of a load test.

    The field names are the columns of a measurement file. The shipped file, ``bert-large-g4dn.csv``, is the table of
    "Achieve hyperscale performance for model serving using NVIDIA Triton Inference Server on Amazon SageMaker" (AWS
    Machine Learning Blog): BERT-large, 512 tokens, measured by SageMaker Inference Recommender.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    variant: str
    """Name of the variant, as `model_repo.variant` spells it; the table's ``trt-db-ig`` is read as ``trt-ig-db``."""
    instance_type: str
    vcpus: Annotated[int, Field(gt=0)]
    gpus: Annotated[int, Field(gt=0)]
    price_usd_per_hour: Annotated[float, Field(gt=0)]
    """On-demand price of one instance when it was measured."""
    initial_instance_count: Annotated[int, Field(gt=0)]
    """Instances that the load test recommended for its own traffic (30,000 invocations a minute)."""
    max_invocations_per_minute_per_instance: Annotated[int, Field(gt=0)]
    model_latency_ms: Annotated[float, Field(gt=0)]
    """Model latency at that throughput."""
    cost_usd_per_hour: Annotated[float, Field(gt=0)]
    """Price of `initial_instance_count` instances."""


def read_measurements(path: Path) -> tuple[Measurement, ...]:
    """Read a CSV file of measurements.

    Args:
        path: A file with the columns of `Measurement` as its header.

    Raises:
        MeasurementError: The file cannot be read, or a row is wrong: one line an error, with its line number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise MeasurementError(f"{path}: cannot be read: {error}; name a CSV file of measurements") from error
    if not rows:
        raise MeasurementError(f"{path}: holds no measurement; a header and at least one row are needed")
    return tuple(_read_row(path, line, row) for line, row in enumerate(rows, start=2))


def _read_row(path: Path, line: int, row: dict[str, str]) -> Measurement:
    try:
        # By name, for a row that is too long carries its surplus under the key None.
        return Measurement.model_validate({str(key): value for key, value in row.items()}).model_copy(
            update={"variant": parse_variant(row["variant"]).name}
        )
    except ValidationError as error:
        first = error.errors()[0]
        column = ".".join(str(part) for part in first["loc"])
        raise MeasurementError(f'{path}:{line}: {column}: "{first["input"]}": {first["msg"]}') from error
    except ValueError as error:
        raise MeasurementError(f"{path}:{line}: variant: {error}") from error


def write_measurements(path: Path, rows: Iterable[Measurement]) -> None:
    """Write measurements into a CSV file, beside what it has of other variants and instance types.

    A row of the same variant and instance type is replaced where it stands; the file changes as a whole or not at all.

    Args:
        path: A file of measurements, or one that is yet to be made in a folder that is there.
        rows: What was measured.

    Raises:
        MeasurementError: The file holds something else, or cannot be written: it is left as it was.
    """
    known = read_measurements(path) if path.exists() else ()
    merged = {(row.variant, row.instance_type): row for row in (*known, *rows)}
    try:
        # In the same folder: a rename is atomic within one file system only.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
            written = Path(scratch) / path.name
            with written.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(Measurement.model_fields), lineterminator="\n")
                writer.writeheader()
                writer.writerows(
                    {column: _cell(value) for column, value in row.model_dump().items()} for row in merged.values()
                )
            written.replace(path)
    except OSError as error:
        raise MeasurementError(
            f"{path}: cannot be written: {error.strerror}; name a file in a folder of yours"
        ) from error


def _cell(value: object) -> object:
    """A whole number without the ".0" that a float is printed with."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class Machine:
    """A Compute Engine machine type with one T4 attached."""

    name: str
    measured_as: str
    """The SageMaker instance type whose measurements hold for it: same T4 count, same vCPU count."""


MACHINES = (
    # An N1 machine with one T4 attached has the GPU of a g4dn and, type by type, its vCPU count:
    # https://cloud.google.com/compute/docs/gpus#t4-gpus and https://aws.amazon.com/ec2/instance-types/g4/
    Machine("n1-standard-4", measured_as="ml.g4dn.xlarge"),
    Machine("n1-standard-8", measured_as="ml.g4dn.2xlarge"),
)


def machine(name: str) -> Machine:
    """Find a Compute Engine machine type by name.

    Raises:
        MeasurementError: No measurement stands for that type.
    """
    for known in MACHINES:
        if known.name == name:
            return known
    choices = ", ".join(known.name for known in MACHINES)
    raise MeasurementError(f'"{name}" has no measured equivalent with one T4; one of {choices}')


def find_measurement(measurements: Sequence[Measurement], *, variant: str, instance_type: str) -> Measurement:
    """Pick the measurement of a variant on an instance type.

    Raises:
        MeasurementError: It was not measured; the text lists what was.
    """
    of_variant = [m for m in measurements if m.variant == variant]
    for measurement in of_variant:
        if measurement.instance_type == instance_type:
            return measurement
    if of_variant:
        measured = _names(m.instance_type for m in of_variant)
        raise MeasurementError(f'"{instance_type}" was not measured with variant "{variant}"; one of {measured}')
    raise MeasurementError(f'"{variant}" was not measured; one of {_names(m.variant for m in measurements)}')


def _names(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
