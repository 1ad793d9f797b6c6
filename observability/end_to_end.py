"""The latency that a client saw, into CloudWatch."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final

from observability.endpoint_metrics import END_TO_END_LATENCY, EndpointVariant

if TYPE_CHECKING:
    from types_boto3_cloudwatch import CloudWatchClient

# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricDatum.html
_VALUES_PER_DATUM: Final = 150
# 0.1 ms: finer than the way to SageMaker repeats itself, and a load test's answers share few values.
_DECIMALS: Final = 1


def publish_latencies(client: "CloudWatchClient", of: EndpointVariant, latencies_ms: Iterable[float]) -> None:
    """Publish what clients waited as `EndToEndLatency` of this minute, each value of it and no mean.

    Args:
        client: A boto3 client of CloudWatch in the endpoint's region; it may put metric data into `TritonStack`.
        of: What answered.
        latencies_ms: One for each answer, rounded to 0.1 ms. None at all publishes nothing.

    Raises:
        botocore.exceptions.ClientError, BotoCoreError: CloudWatch refuses them, or is not reached.
    """
    counts = iter(sorted(Counter(round(latency, _DECIMALS) for latency in latencies_ms).items()))
    while batch := tuple(islice(counts, _VALUES_PER_DATUM)):
        client.put_metric_data(
            Namespace=END_TO_END_LATENCY.namespace,
            MetricData=[
                {
                    "MetricName": END_TO_END_LATENCY.name,
                    "Dimensions": [{"Name": name, "Value": value} for name, value in of.dimensions.items()],
                    "Unit": END_TO_END_LATENCY.unit,
                    "Values": [value for value, _ in batch],
                    "Counts": [count for _, count in batch],
                }
            ],
        )
