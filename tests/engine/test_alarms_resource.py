"""The alarms and the dashboard of an endpoint, by the real engine: made, unchanged, changed in place, gone."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import boto3
import pytest
from pulumi_stack import Stack

from delivery.smoke import Answer, publish
from localcloud.cloud import LocalCloud
from observability.end_to_end import publish_latencies
from observability.endpoint_metrics import END_TO_END_LATENCY, EndpointVariant

ROOT = Path(__file__).parents[2]
ENDPOINT = "triton-test"
TOPIC = "arn:aws:sns:us-east-1:123456789012:on-call"
GUARDS = [f"{ENDPOINT}-model-latency", f"{ENDPOINT}-5xx-errors"]


@pytest.fixture(scope="module")
def cloudwatch(cloud: LocalCloud) -> Any:
    session: Any = boto3.Session(aws_access_key_id="local", aws_secret_access_key="local", region_name="us-east-1")
    return session.client("cloudwatch", endpoint_url=cloud.aws_url)


@pytest.fixture(scope="module")
def stack(cloud: LocalCloud, new_stack: Callable[..., Stack]) -> Stack:
    stack = new_stack("alarms", aws__region="us-east-1", aws__endpoints=[{"cloudwatch": cloud.aws_url}])
    stack.environment["PYTHONPATH"] = str(ROOT)
    stack.up()
    return stack


def alarms(cloudwatch: Any) -> dict[str, dict[str, Any]]:
    """What CloudWatch has, by name; of a metric's dimensions, the order means nothing."""
    found: list[dict[str, Any]] = cloudwatch.describe_alarms()["MetricAlarms"]
    for query in (query for alarm in found for query in alarm["Metrics"] if "MetricStat" in query):
        query["MetricStat"]["Metric"]["Dimensions"].sort(key=itemgetter("Name"))
    return {alarm["AlarmName"]: alarm for alarm in found}


def changes(stack: Stack, *options: str) -> list[tuple[str, str]]:
    steps: list[dict[str, Any]] = json.loads(stack.pulumi("preview", "--json", *options))["steps"]
    return [(step["urn"].rpartition("::")[2], step["op"]) for step in steps if step["op"] not in ("same", "refresh")]


def test_what_guards_a_deployment_is_known_before_it_is_there(
    cloud: LocalCloud, new_stack: Callable[..., Stack]
) -> None:
    fresh = new_stack("alarms", aws__region="us-east-1", aws__endpoints=[{"cloudwatch": cloud.aws_url}])
    fresh.environment["PYTHONPATH"] = str(ROOT)
    _, _, outputs = fresh.pulumi("preview").partition("Outputs:")
    assert re.findall('"(.*)"', outputs) == GUARDS


def test_metric_math_reaches_cloudwatch_as_it_was_written(cloudwatch: Any, stack: Stack) -> None:
    assert stack.outputs()["rollback"] == GUARDS
    live = alarms(cloudwatch)
    assert len(live) == 12
    errors = live[f"{ENDPOINT}-5xx-errors"]
    assert (errors["Threshold"], errors["DatapointsToAlarm"], errors["EvaluationPeriods"]) == (0.001, 3, 5)
    assert (errors["ComparisonOperator"], errors["TreatMissingData"]) == ("GreaterThanThreshold", "notBreaching")
    dimensions = [{"Name": "EndpointName", "Value": ENDPOINT}, {"Name": "VariantName", "Value": "triton"}]
    assert errors["Metrics"] == [
        {
            "Id": name,
            "MetricStat": {
                "Metric": {"Namespace": "AWS/SageMaker", "MetricName": metric, "Dimensions": dimensions},
                "Period": 60,
                "Stat": "Sum",
            },
            "ReturnData": False,
        }
        for name, metric in (("errors", "Invocation5XXErrors"), ("requests", "Invocations"))
    ] + [{"Id": "watched", "Expression": "IF(requests > 0, errors / requests, 0)", "Label": ANY, "ReturnData": True}]


def test_an_unchanged_program_changes_nothing_also_after_a_look_at_the_cloud(stack: Stack) -> None:
    assert changes(stack) == []
    assert changes(stack, "--refresh") == []


def test_what_was_changed_by_hand_is_found_and_put_right(cloudwatch: Any, stack: Stack) -> None:
    before = alarms(cloudwatch)
    kept = ("AlarmName", "AlarmDescription", "Threshold", "EvaluationPeriods", "DatapointsToAlarm")
    kept += ("ComparisonOperator", "TreatMissingData")

    def change(what: str, **changed: object) -> None:
        """Change what the last query of an alarm says, and nothing else."""
        alarm = before[f"{ENDPOINT}-{what}"]
        queries = [*alarm["Metrics"][:-1], alarm["Metrics"][-1] | changed]
        cloudwatch.put_metric_alarm(Metrics=queries, **{key: alarm[key] for key in kept})

    change("at-maximum", Expression="requests")
    change("gpu", MetricStat=before[f"{ENDPOINT}-gpu"]["Metrics"][0]["MetricStat"] | {"Stat": "Minimum"})
    cloudwatch.put_dashboard(DashboardName=ENDPOINT, DashboardBody='{"widgets": []}')
    cloudwatch.delete_alarms(AlarmNames=[f"{ENDPOINT}-disk"])
    assert dict(changes(stack, "--refresh")) == {
        **dict.fromkeys(("alarms-at-maximum", "alarms-gpu", "alarms-dashboard"), "update"),
        "alarms-disk": "create",
    }
    stack.refresh()
    stack.up()
    after = alarms(cloudwatch)
    assert {name: alarm["Metrics"] for name, alarm in after.items()} == {
        name: alarm["Metrics"] for name, alarm in before.items()
    }
    assert changes(stack, "--refresh") == []


def test_another_slo_and_a_topic_change_the_alarms_in_place(cloudwatch: Any, stack: Stack) -> None:
    stack.configure(latency_ms=600)
    latency = {f"alarms-{which}-latency" for which in ("model", "overhead", "end-to-end")}
    assert stack.operations() == dict.fromkeys({*latency, "alarms-dashboard"}, "update")
    stack.configure(topic_arn=TOPIC)
    assert set(stack.operations().values()) == {"update"}
    assert stack.up()["rollback"] == GUARDS
    live = alarms(cloudwatch)
    assert live[f"{ENDPOINT}-model-latency"]["Threshold"] == 600_000
    assert {tuple(alarm["AlarmActions"] + alarm["OKActions"]) for alarm in live.values()} == {(TOPIC, TOPIC)}
    body = json.loads(cloudwatch.get_dashboard(DashboardName=ENDPOINT)["DashboardBody"])
    assert "within 600 ms" in body["widgets"][0]["properties"]["markdown"]
    assert changes(stack, "--refresh") == []


@pytest.mark.usefixtures("stack")
def test_what_a_client_waited_is_in_the_metric_that_the_alarm_watches(
    cloud: LocalCloud, cloudwatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_latencies(cloudwatch, EndpointVariant(ENDPOINT, "triton"), [12.31, *range(100, 300)])
    for key, value in cloud.environment().items():
        monkeypatch.setenv(key, value)
    answers = [Answer("sagemaker", "invoke_endpoint", 12.34, {}, "triton"), Answer("gke us-central1", "http", 1, {})]
    publish({"sagemaker": {"endpoint": ENDPOINT, "region": "us-east-1"}}, answers)
    (query,) = alarms(cloudwatch)[f"{ENDPOINT}-end-to-end-latency"]["Metrics"]
    watched, now = query["MetricStat"]["Metric"], datetime.now(UTC)
    points = cloudwatch.get_metric_statistics(
        **watched,
        StartTime=now - timedelta(minutes=5),
        EndTime=now + timedelta(minutes=1),
        Period=300,
        Statistics=["SampleCount", "Minimum", "Maximum"],
    )["Datapoints"]
    assert sum(point["SampleCount"] for point in points) == 202
    assert min(point["Minimum"] for point in points) == 12.3
    assert max(point["Maximum"] for point in points) == 299
    assert {point["Unit"] for point in points} == {END_TO_END_LATENCY.unit}


def test_destroy_leaves_nothing(cloudwatch: Any, stack: Stack) -> None:
    stack.destroy()
    assert stack.resources() == {}
    assert alarms(cloudwatch) == {}
    assert cloudwatch.list_dashboards()["DashboardEntries"] == []
