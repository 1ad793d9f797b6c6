"""The CloudWatch metrics of a SageMaker endpoint: the one place that knows their names and units.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html. `ContainerLatency` is not here:
SageMaker has it where several containers stand behind an endpoint; of a single one, `ModelLatency` says the same.
"""

from dataclasses import dataclass
from typing import Final, Literal

PERIOD_S: Final = 60
"""SageMaker publishes each of them once a minute."""


@dataclass(frozen=True)
class EndpointVariant:
    """One production variant of one endpoint: what every metric here is of."""

    endpoint: str
    variant: str

    @property
    def dimensions(self) -> dict[str, str]:
        """As CloudWatch names and orders them."""
        return {"EndpointName": self.endpoint, "VariantName": self.variant}


@dataclass(frozen=True)
class Metric:
    """One metric of an endpoint variant."""

    name: str
    namespace: str
    unit: Literal["Microseconds", "Milliseconds", "Percent", "None"]
    summed_over: Literal["vcpus", "gpus"] | None = None
    """A percentage that is summed over these: it goes up to 100 times as many as an instance has."""

    def from_ms(self, milliseconds: float) -> float:
        """A time in the metric's own unit."""
        return milliseconds * {"Microseconds": 1000, "Milliseconds": 1}[self.unit]


_REQUESTS: Final = "AWS/SageMaker"
_INSTANCES: Final = "/aws/sagemaker/Endpoints"

MODEL_LATENCY: Final = Metric("ModelLatency", _REQUESTS, "Microseconds")
OVERHEAD_LATENCY: Final = Metric("OverheadLatency", _REQUESTS, "Microseconds")
END_TO_END_LATENCY: Final = Metric("EndToEndLatency", "TritonStack", "Milliseconds")
"""Our own: what a client waited, its way to SageMaker and back included."""

INVOCATIONS: Final = Metric("Invocations", _REQUESTS, "None")
ERRORS_4XX: Final = Metric("Invocation4XXErrors", _REQUESTS, "None")
ERRORS_5XX: Final = Metric("Invocation5XXErrors", _REQUESTS, "None")
"""As the one above: each request adds 1 if it failed so, else 0."""
INVOCATIONS_PER_INSTANCE: Final = Metric("InvocationsPerInstance", _REQUESTS, "None")
"""Each request adds `1 / instances in service`:
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_ScalingPolicyMetric.html"""

GPU: Final = Metric("GPUUtilization", _INSTANCES, "Percent", summed_over="gpus")
GPU_MEMORY: Final = Metric("GPUMemoryUtilization", _INSTANCES, "Percent", summed_over="gpus")
CPU: Final = Metric("CPUUtilization", _INSTANCES, "Percent", summed_over="vcpus")
MEMORY: Final = Metric("MemoryUtilization", _INSTANCES, "Percent")
DISK: Final = Metric("DiskUtilization", _INSTANCES, "Percent")
