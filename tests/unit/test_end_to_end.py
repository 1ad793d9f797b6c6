"""What clients waited, as it is handed to CloudWatch."""

from typing import Any

import boto3
import numpy as np
import pytest
from botocore.stub import Stubber

from delivery.smoke import Answer, PublishError, publish
from localcloud.pod import free_port
from observability.end_to_end import publish_latencies
from observability.endpoint_metrics import EndpointVariant

VARIANT = EndpointVariant("triton-test", "triton")
STACK = {"sagemaker": {"endpoint": "triton-test", "region": "us-east-1"}}


def published(latencies_ms: list[float]) -> list[dict[str, Any]]:
    """The data of each call, which botocore's own model has checked."""
    session: Any = boto3.Session("local", "local", region_name="us-east-1")
    client, data = session.client("cloudwatch"), list[dict[str, Any]]()

    def keep(params: dict[str, Any], **_: object) -> None:
        assert params["Namespace"] == "TritonStack"
        data.extend(params["MetricData"])

    client.meta.events.register("provide-client-params.cloudwatch.PutMetricData", keep)
    with Stubber(client) as stub:
        for _ in range(len({round(each, 1) for each in latencies_ms}) // 150 + 1):
            stub.add_response("put_metric_data", {})
        publish_latencies(client, VARIANT, latencies_ms)
    return data


def test_every_latency_arrives_with_its_endpoint_and_none_is_averaged() -> None:
    (datum,) = published([12.34, 12.31, 500.0])
    assert datum == {
        "MetricName": "EndToEndLatency",
        "Dimensions": [{"Name": "EndpointName", "Value": "triton-test"}, {"Name": "VariantName", "Value": "triton"}],
        "Unit": "Milliseconds",
        "Values": [12.3, 500.0],
        "Counts": [2, 1],
    }


def test_a_load_test_s_latencies_go_150_different_ones_at_a_time() -> None:
    latencies = [float(each) for each in np.random.default_rng(5).gamma(4, 20, 5000)]
    data = published(latencies)
    assert max(len(datum["Values"]) for datum in data) == 150
    assert sum(sum(datum["Counts"]) for datum in data) == 5000
    several = [
        value
        for datum in data
        for value, count in zip(datum["Values"], datum["Counts"], strict=True)
        for _ in range(count)
    ]
    assert np.percentile(several, 95) == pytest.approx(float(np.percentile(latencies, 95)), abs=0.1)


def test_nothing_measured_is_nothing_published() -> None:
    assert published([]) == []


def test_a_cloudwatch_that_does_not_answer_is_one_line_that_says_what_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    with pytest.raises(PublishError) as raised:
        publish(STACK, [Answer("sagemaker", "invoke_endpoint", 12.3, {}, "triton")])
    (line,) = str(raised.value).splitlines()
    assert line.startswith("EndToEndLatency of triton-test is not in CloudWatch: ")
    assert "allow cloudwatch:PutMetricData on the namespace TritonStack" in line
    publish(STACK, [Answer("gke us-central1", "http", 12.3, {})])  # asks nobody
