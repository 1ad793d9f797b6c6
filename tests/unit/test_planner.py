"""Counts from measurements: the arithmetic of the measured table."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capacity.measurements import (
    SHIPPED_FOLDER,
    Measurement,
    MeasurementError,
    find_measurement,
    machine,
    read_measurements,
)
from capacity.planner import InstancePlan, PlanError, instance_count, plan_instances
from capacity.prices import price_usd_per_hour

TABLE = read_measurements(SHIPPED_FOLDER / "bert-large-g4dn.csv")


def plan(measurement: Measurement, **changes: Any) -> InstancePlan:
    arguments: dict[str, Any] = {
        "instance_type": measurement.instance_type,
        "base_rps": 70,
        "peak_rps": 500,
        "headroom": 1.2,
        "safety_factor": 0.7,
        "slo_latency_ms": 10_000,
        "price_usd_per_hour": measurement.price_usd_per_hour,
    }
    return plan_instances(measurement, **{**arguments, **changes})


def test_the_table_has_24_rows() -> None:
    assert len(TABLE) == 24


@pytest.mark.parametrize("row", TABLE, ids=[f"{row.variant}-{row.instance_type}" for row in TABLE])
def test_every_row_of_the_table_gives_its_count_and_its_cost_to_the_cent(row: Measurement) -> None:
    planned = plan(row)
    assert planned.count == row.initial_instance_count
    assert planned.cost_usd_per_hour == pytest.approx(row.cost_usd_per_hour, abs=0.005)


def test_the_seed_s_spelling_of_a_variant_is_normalised() -> None:
    assert {row.variant for row in TABLE if row.variant.startswith("trt")} == {
        "trt-base",
        "trt-db",
        "trt-ig",
        "trt-ig-db",
    }


@given(
    rps=st.floats(0.001, 1e6, allow_nan=False), per_minute=st.integers(1, 10**6), more=st.floats(1, 10, allow_nan=False)
)
def test_a_count_carries_its_rate_and_one_fewer_does_not(rps: float, per_minute: int, more: float) -> None:
    count = instance_count(rps, per_minute)
    assert count * per_minute >= Fraction(str(rps)) * 60
    assert count == 1 or (count - 1) * per_minute < Fraction(str(rps)) * 60
    assert instance_count(rps * more, per_minute) >= count


def test_a_rate_that_fills_its_instances_exactly_gains_none_by_rounding() -> None:
    assert instance_count(0.1 + 0.2, 6) == math.ceil(Fraction("0.30000000000000004") * 60 / 6)
    assert instance_count(0.3, 6) == 3


def test_bounds_enclose_the_count() -> None:
    planned = plan(find_measurement(TABLE, variant="trt-db", instance_type="ml.g4dn.2xlarge"))
    assert (planned.min_count, planned.count, planned.max_count) == (4, 23, 27)
    assert planned.scaling_target_per_minute == 934.5
    costs = (planned.min_cost_usd_per_hour, planned.cost_usd_per_hour, planned.max_cost_usd_per_hour)
    assert costs == (3.76, 21.62, 25.38)


def test_a_latency_over_the_slo_is_refused() -> None:
    with pytest.raises(PlanError, match="814 ms at its measured throughput, over the 500 ms"):
        plan(find_measurement(TABLE, variant="trt-db", instance_type="ml.g4dn.xlarge"), slo_latency_ms=500)


def test_what_was_not_measured_is_an_error_that_lists_what_was() -> None:
    with pytest.raises(MeasurementError, match=r"one of ml.g4dn.xlarge, ml.g4dn.2xlarge, ml.g4dn.12xlarge$"):
        find_measurement(TABLE, variant="trt-db", instance_type="ml.g4dn.16xlarge")
    with pytest.raises(MeasurementError, match='"int8" was not measured; one of pt-base'):
        find_measurement(TABLE, variant="int8", instance_type="ml.g4dn.xlarge")
    with pytest.raises(MeasurementError, match="one of n1-standard-4, n1-standard-8"):
        machine("a2-highgpu-1g")


def test_a_price_that_is_not_known_is_none() -> None:
    assert price_usd_per_hour("sagemaker", "us-east-1", "ml.g4dn.2xlarge") == 0.94
    assert price_usd_per_hour("sagemaker", "eu-west-1", "ml.g4dn.2xlarge") is None
    unknown = plan(TABLE[0], price_usd_per_hour=None)
    assert {unknown.min_cost_usd_per_hour, unknown.cost_usd_per_hour, unknown.max_cost_usd_per_hour} == {None}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no measurement"),
        ("variant,instance_type\ntrt-db,ml.g4dn.xlarge\n", ":2: vcpus: "),
        ("HEADER\ntrt-db,ml.g4dn.xlarge,4,1,0.7,28,0,814,20.6\n", ":2: max_invocations_per_minute_per_instance: \"0\""),
        ("HEADER\ntrt-db,ml.g4dn.xlarge,4,1,nan,28,9,814,20.6\n", ":2: price_usd_per_hour: "),
        ("HEADER\ntrt-xx,ml.g4dn.xlarge,4,1,0.7,28,9,814,20.6\n", ":2: variant: "),
        ("HEADER\ntrt-db,ml.g4dn.xlarge,4,1,0.7,28,9,814,20.6,7\n", ":2: None: "),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_line_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    header = (SHIPPED_FOLDER / "bert-large-g4dn.csv").read_text().splitlines()[0]
    file = tmp_path / "m.csv"
    file.write_text(text.replace("HEADER", header))
    with pytest.raises(MeasurementError) as refused:
        read_measurements(file)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="cannot be read"):
        read_measurements(tmp_path / "none.csv")
