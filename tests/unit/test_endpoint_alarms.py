"""What of an endpoint wakes somebody, by the numbers, and what its dashboard shows."""

import ast
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capacity.measurements import SHIPPED_FOLDER, Measurement, find_measurement, read_measurements
from capacity.planner import InstancePlan, plan_instances
from observability.endpoint_alarms import Alarm, endpoint_alarms
from observability.endpoint_dashboard import dashboard_body
from observability.endpoint_metrics import EndpointVariant
from observability.slo import Slo

GOLDEN = Path(__file__).parent / "golden" / "endpoint-alarms.json"
VARIANT = EndpointVariant("triton-test", "triton")
SLO = Slo(latency_ms=500)

Minute = Mapping[str, float]
"""What one minute has of each metric, by its name; a metric that has nothing is not there."""


def measured(instance_type: str = "ml.g4dn.2xlarge") -> Measurement:
    measurements = read_measurements(SHIPPED_FOLDER / "bert-large-g4dn.csv")
    return find_measurement(measurements, variant="trt-db", instance_type=instance_type)


def planned(measurement: Measurement, headroom: float = 1.4) -> InstancePlan:
    return plan_instances(
        measurement,
        instance_type=measurement.instance_type,
        base_rps=40,
        peak_rps=60,
        headroom=headroom,
        safety_factor=0.7,
        slo_latency_ms=1e9,
        price_usd_per_hour=None,
    )


def alarms(slo: Slo = SLO, measurement: Measurement | None = None) -> dict[str, Alarm]:
    measurement = measurement or measured()
    found = endpoint_alarms(VARIANT, slo, planned(measurement))
    by_name = {alarm.what: alarm for alarm in found}
    assert len(by_name) == len(found)
    return by_name


def value_of(expression: ast.expr, minute: Minute) -> float | None:
    """Metric math, as far as the alarms use it: what has no data has no result, nor has a division by zero."""
    match expression:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name):
            return minute.get(name)
        case ast.Call(func=ast.Name(id="IF"), args=[condition, then, otherwise]):
            chosen = value_of(condition, minute)
            return None if chosen is None else value_of(then if chosen else otherwise, minute)
        case ast.Compare(left=left, ops=[ast.Gt()], comparators=[right]):
            a, b = value_of(left, minute), value_of(right, minute)
            return None if a is None or b is None else float(a > b)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            a, b = value_of(left, minute), value_of(right, minute)
            return a / b if a is not None and b else None
        case _:
            raise AssertionError(ast.unparse(expression))


def goes_off(alarm: Alarm, *minutes: Minute) -> bool:
    """Whether an alarm is in alarm after its whole window of such minutes, the last of which are given."""
    quiet: list[Minute] = [{}] * (alarm.window.minutes - len(minutes))
    text = alarm.expression or alarm.series[0].id
    breaching = 0
    for minute in [*quiet, *minutes]:
        named = {each.id: minute[each.metric.name] for each in alarm.series if each.metric.name in minute}
        value = value_of(ast.parse(text, mode="eval").body, named)
        breaching += value is not None and value > alarm.threshold
    return breaching >= alarm.window.breaching_minutes


# --- each alarm -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "metric", "limit"),
    [
        ("model-latency", "ModelLatency", 500_000),  # microseconds
        ("overhead-latency", "OverheadLatency", 100_000),
        ("end-to-end-latency", "EndToEndLatency", 600),  # milliseconds
    ],
)
def test_a_latency_over_its_limit_in_three_of_five_minutes_wakes_somebody(what: str, metric: str, limit: float) -> None:
    alarm = alarms()[what]
    slow, fast = {metric: limit * 1.01}, {metric: limit}
    assert goes_off(alarm, slow, fast, slow, fast, slow)
    assert not goes_off(alarm, slow, fast, slow, fast)
    assert not goes_off(alarm, fast, fast, fast, fast, fast)
    assert not goes_off(alarm)
    assert alarm.series[0].statistic == "p95"


@pytest.mark.parametrize(("percentile", "statistic"), [(95, "p95"), (99.9, "p99.9"), (99.99, "p99.99")])
def test_the_slo_s_percentile_is_the_one_that_is_watched(percentile: float, statistic: str) -> None:
    found = alarms(replace(SLO, percentile=percentile))
    for what in ("model-latency", "overhead-latency", "end-to-end-latency"):
        assert found[what].series[0].statistic == statistic


@pytest.mark.parametrize(
    ("what", "metric", "tolerated"),
    [("5xx-errors", "Invocation5XXErrors", 1), ("4xx-errors", "Invocation4XXErrors", 50)],
)
def test_errors_are_judged_by_their_share_and_no_traffic_is_no_error(what: str, metric: str, tolerated: int) -> None:
    alarm = alarms()[what]

    def minutes(requests: int, errors: int) -> list[Minute]:
        return [{"Invocations": requests, metric: errors}] * 3

    assert goes_off(alarm, *minutes(1000, tolerated + 1))
    assert not goes_off(alarm, *minutes(1000, tolerated))
    assert not goes_off(alarm, *minutes(1000, tolerated + 1)[:2])
    assert not goes_off(alarm, *minutes(0, 0))
    assert not goes_off(alarm)


def test_one_percent_of_server_errors_is_over_an_availability_of_three_nines_and_within_two() -> None:
    one_percent = [{"Invocations": 1000.0, "Invocation5XXErrors": 10.0}] * 3
    assert goes_off(alarms(replace(SLO, availability=0.999))["5xx-errors"], *one_percent)
    assert not goes_off(alarms(replace(SLO, availability=0.99))["5xx-errors"], *one_percent)


def test_the_error_budget_is_what_one_would_write_by_hand() -> None:
    assert [Slo(500, availability=share).error_budget for share in (0.9, 0.99, 0.999, 0.9995)] == [
        *(0.1, 0.01, 0.001, 0.0005)
    ]


def test_requests_per_instance_over_the_scaler_s_target_for_a_quarter_of_an_hour() -> None:
    alarm = alarms()["invocations-per-instance"]
    assert alarm.threshold == planned(measured()).scaling_target_per_minute == 934.5
    assert "Target 934.5 = 1335 measured on ml.g4dn.2xlarge * 0.7" in alarm.description
    over, at = {"InvocationsPerInstance": 935.0}, {"InvocationsPerInstance": 934.5}
    assert alarm.series[0].statistic == "Sum"
    assert goes_off(alarm, *[over] * 15)
    assert not goes_off(alarm, *[over] * 14, at)


def test_a_fleet_at_the_plan_s_maximum_is_told_from_one_below_by_what_a_request_adds() -> None:
    alarm = alarms()["at-maximum"]

    def minutes(instances: int) -> list[Minute]:
        return [{"Invocations": 3000.0, "InvocationsPerInstance": 3000 / instances}] * 15

    assert planned(measured()).max_count == 4
    assert goes_off(alarm, *minutes(4))
    assert not goes_off(alarm, *minutes(3))
    assert not goes_off(alarm, *[{"Invocations": 0.0, "InvocationsPerInstance": 0.0}] * 15)
    assert not goes_off(alarm)


def test_a_fleet_of_one_size_is_not_at_its_maximum_all_the_time() -> None:
    fixed = replace(planned(measured()), min_count=4, max_count=4)
    assert "at-maximum" not in {alarm.what for alarm in endpoint_alarms(VARIANT, SLO, fixed)}


@pytest.mark.parametrize(("instance_type", "gpus", "vcpus"), [("ml.g4dn.2xlarge", 1, 8), ("ml.g4dn.12xlarge", 4, 48)])
def test_what_is_summed_over_gpus_or_vcpus_is_full_at_so_many_times_90(
    instance_type: str, gpus: int, vcpus: int
) -> None:
    found = alarms(measurement=measured(instance_type))
    counts = {"gpu": gpus, "gpu-memory": gpus, "cpu": vcpus, "memory": 1, "disk": 1}
    assert {what: found[what].threshold for what in counts} == {what: 90 * count for what, count in counts.items()}
    for what, count in counts.items():
        metric = found[what].series[0].metric.name
        assert goes_off(found[what], *[{metric: 90.0 * count + 1}] * 15)
        assert not goes_off(found[what], *[{metric: 90.0 * count}] * 15)
    assert f"{90 * gpus} of {100 * gpus}, for the metric is a sum over GPUs" in found["gpu"].description


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slo", [SLO, Slo(latency_ms=1, percentile=99.9, availability=0.9)])
@pytest.mark.parametrize("instance_type", ["ml.g4dn.xlarge", "ml.g4dn.12xlarge"])
@pytest.mark.parametrize("headroom", [1, 10])
def test_the_same_two_alarms_guard_a_deployment_whatever_is_set(slo: Slo, instance_type: str, headroom: float) -> None:
    measurement = measured(instance_type)
    found = endpoint_alarms(VARIANT, slo, planned(measurement, headroom))
    assert [alarm.name for alarm in found if alarm.rollback] == ["triton-test-model-latency", "triton-test-5xx-errors"]


def test_what_guards_a_deployment_is_ok_where_nobody_asks() -> None:
    assert {alarm.missing.treatment for alarm in alarms().values() if alarm.rollback} == {"notBreaching"}


@pytest.mark.parametrize("what", alarms())
def test_an_alarm_says_its_threshold_what_missing_data_means_and_the_first_step(what: str) -> None:
    alarm = alarms()[what]
    text = alarm.description
    assert len(text) <= 1024
    for part in (alarm.limit, alarm.arithmetic, "No data: ", " First: ", f"of {alarm.window.minutes} minutes"):
        assert part in text
    assert text.endswith(".")


def test_alarms_and_dashboard_are_those_that_were_reviewed() -> None:
    measurement = measured()
    plan = planned(measurement)
    found = endpoint_alarms(VARIANT, SLO, plan)
    said = {
        "alarms": {alarm.name: [alarm.description, alarm.threshold, alarm.expression] for alarm in found},
        "dashboard": dashboard_body(VARIANT, SLO, plan, found, "us-east-1"),
    }
    assert json.dumps(said, indent=2, sort_keys=True) + "\n" == GOLDEN.read_text(encoding="utf-8")


# --- the dashboard ----------------------------------------------------------------------------------------------------

# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html
GRID = {"type", "x", "y", "width", "height", "properties"}
REQUIRED = {"text": {"markdown"}, "metric": {"metrics", "region"}}
KNOWN = {
    "text": {"markdown", "background"},
    "metric": {"metrics", "region", "title", "view", "period", "stat", "stacked", "annotations", "yAxis", "legend"},
}
RENDERING = {"id", "stat", "visible", "label", "expression", "period", "color", "yAxis"}


def widgets() -> list[dict[str, Any]]:
    plan = planned(measured())
    return dashboard_body(VARIANT, SLO, plan, list(alarms().values()), "eu-west-1")["widgets"]


def test_every_widget_has_the_structure_that_cloudwatch_documents() -> None:
    for widget in widgets():
        assert set(widget) == GRID
        properties = set(widget["properties"])
        assert REQUIRED[widget["type"]] <= properties <= KNOWN[widget["type"]]
        assert 0 <= widget["x"] <= 24 - widget["width"]
        for line in widget["properties"].get("metrics", []):
            *names, rendering = line
            assert set(rendering) <= RENDERING
            assert (
                names[2:] == ["EndpointName", "triton-test", "VariantName", "triton"]
                if names
                else "expression" in rendering
            )
        assert widget["properties"].get("region", "eu-west-1") == "eu-west-1"


def test_no_widget_lies_on_another() -> None:
    cells = [
        (x, y)
        for each in widgets()
        for x in range(each["x"], each["x"] + each["width"])
        for y in range(each["y"], each["y"] + each["height"])
    ]
    assert len(cells) == len(set(cells))


def test_every_alarm_has_a_graph_of_what_it_watches_with_its_threshold() -> None:
    graphs = {each["properties"].get("title"): each["properties"] for each in widgets()}
    for alarm in alarms().values():
        graph = graphs[alarm.title]
        shown = [line[-1] for line in graph["metrics"] if line[-1].get("visible", True)]
        assert [each.get("expression") for each in shown] == [alarm.expression]
        assert [each["value"] for each in graph["annotations"]["horizontal"]] == [alarm.threshold]
