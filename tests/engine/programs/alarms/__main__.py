"""The alarms of an endpoint that is not there; a setting changes the SLO, another gives a topic."""

import pulumi

from capacity.measurements import SHIPPED_FOLDER, find_measurement, read_measurements
from capacity.planner import plan_instances
from components.aws.endpoint_alarms import EndpointAlarms, EndpointAlarmsArgs
from observability.slo import Slo

config = pulumi.Config()
measurement = find_measurement(
    read_measurements(SHIPPED_FOLDER / "bert-large-g4dn.csv"), variant="trt-db", instance_type="ml.g4dn.2xlarge"
)
slo = Slo(latency_ms=config.get_float("latency_ms") or 500)
args: EndpointAlarmsArgs = {
    "endpoint_name": "triton-test",
    "production_variant": "triton",
    "slo": slo,
    "plan": plan_instances(
        measurement,
        instance_type=measurement.instance_type,
        base_rps=40,
        peak_rps=60,
        headroom=1.4,
        safety_factor=0.7,
        slo_latency_ms=slo.latency_ms,
        price_usd_per_hour=None,
    ),
    "region": "us-east-1",
}
if topic_arn := config.get("topic_arn"):
    args["topic_arn"] = topic_arn
pulumi.export("rollback", EndpointAlarms("alarms", args).rollback_alarm_names)
