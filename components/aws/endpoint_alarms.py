"""Who is told when a SageMaker endpoint is not well."""

import json
from collections.abc import Sequence
from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from capacity.planner import InstancePlan
from observability.endpoint_alarms import Alarm, endpoint_alarms
from observability.endpoint_dashboard import dashboard_body
from observability.endpoint_metrics import PERIOD_S, EndpointVariant
from observability.slo import Slo


class EndpointAlarmsArgs(TypedDict):
    """What is watched, and against what."""

    endpoint_name: str
    """Name of the endpoint, which need not be there yet; the prefix of every alarm, and the name of the dashboard."""
    production_variant: str
    slo: Slo
    plan: InstancePlan
    region: str
    """Where the endpoint is."""
    topic_arn: NotRequired[pulumi.Input[str]]
    """SNS topic that is told of every alarm and of its end; left out, the alarms are seen in the console only."""


class EndpointAlarms(pulumi.ComponentResource):
    """CloudWatch alarms from one SLO, and a dashboard with a graph for each of them.

    They name the endpoint and do not wait for it: it is the endpoint that waits for those that guard its deployments.
    It makes no topic, and rolls nothing back itself: SageMaker does, for the alarms that the endpoint names.
    """

    rollback_alarm_names: Sequence[pulumi.Output[str]]
    """The alarms that undo a deployment, each once it is there: always the same ones."""

    def __init__(self, name: str, args: EndpointAlarmsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:aws:EndpointAlarms", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        watched = EndpointVariant(args["endpoint_name"], args["production_variant"])
        alarms = endpoint_alarms(watched, args["slo"], args["plan"])
        actions = [args["topic_arn"]] if "topic_arn" in args else []
        guards: list[pulumi.Output[str]] = []
        for alarm in alarms:
            made = aws.cloudwatch.MetricAlarm(
                f"{name}-{alarm.what}",
                name=alarm.name,
                alarm_description=alarm.description,
                metric_queries=_queries(alarm),
                comparison_operator="GreaterThanThreshold",
                threshold=alarm.threshold,
                datapoints_to_alarm=alarm.window.breaching_minutes,
                evaluation_periods=alarm.window.minutes,
                treat_missing_data=alarm.missing.treatment,
                alarm_actions=actions,
                ok_actions=actions,
                opts=child,
            )
            if alarm.rollback:
                guards.append(made.name)
        body = dashboard_body(watched, args["slo"], args["plan"], alarms, args["region"])
        aws.cloudwatch.Dashboard(
            f"{name}-dashboard",
            dashboard_name=args["endpoint_name"],
            dashboard_body=json.dumps(body, sort_keys=True),
            opts=child,
        )
        self.rollback_alarm_names = guards
        self.register_outputs({"rollback_alarm_names": self.rollback_alarm_names})


def _queries(alarm: Alarm) -> list[aws.cloudwatch.MetricAlarmMetricQueryArgsDict]:
    """An alarm's series and, where it watches one, the expression over them."""
    queries: list[aws.cloudwatch.MetricAlarmMetricQueryArgsDict] = [
        {
            "id": series.id,
            "metric": {
                "namespace": series.metric.namespace,
                "metric_name": series.metric.name,
                "dimensions": alarm.of.dimensions,
                "period": PERIOD_S,
                "stat": series.statistic,
            },
            "return_data": alarm.expression is None,
        }
        for series in alarm.series
    ]
    if alarm.expression is not None:
        queries.append({"id": "watched", "expression": alarm.expression, "label": alarm.title, "return_data": True})
    return queries
