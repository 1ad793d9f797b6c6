"""The CloudWatch dashboard of a SageMaker endpoint: a graph for each alarm, with its threshold in it."""

from collections.abc import Sequence
from typing import Any, Final

from capacity.planner import InstancePlan
from observability.endpoint_alarms import Alarm
from observability.endpoint_metrics import INVOCATIONS, PERIOD_S, EndpointVariant, Metric
from observability.slo import Slo

# The grid is 24 wide: https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html
_COLUMNS: Final = 3
_WIDTH: Final = 8
_HEIGHT: Final = 6
_HEADER_HEIGHT: Final = 3


def dashboard_body(
    of: EndpointVariant, slo: Slo, plan: InstancePlan, alarms: Sequence[Alarm], region: str
) -> dict[str, Any]:
    """The body of the dashboard: of the same arguments, the same.

    Args:
        of: What is shown.
        slo: What its clients may expect.
        plan: Its instances.
        alarms: In their order, from left to right and down.
        region: Where the endpoint is; dashboards are in none.
    """
    graphs = [_graph(region, "Requests a minute", [_line(of, INVOCATIONS, stat="Sum")])]
    graphs += [_alarm_graph(region, alarm) for alarm in alarms]
    placed = [
        {
            "x": index % _COLUMNS * _WIDTH,
            "y": _HEADER_HEIGHT + index // _COLUMNS * _HEIGHT,
            "width": _WIDTH,
            "height": _HEIGHT,
            **graph,
        }
        for index, graph in enumerate(graphs)
    ]
    return {"widgets": [_header(of, slo, plan), *placed]}


def _header(of: EndpointVariant, slo: Slo, plan: InstancePlan) -> dict[str, Any]:
    text = (
        f"# {of.endpoint}\n"
        f"P{slo.percentile:g} of model latency within {slo.latency_ms:g} ms, {slo.availability * 100:.12g} % of "
        f"requests answered.  \n{plan.min_count} to {plan.max_count} {plan.instance_type}; {plan.formula}"
    )
    size = {"x": 0, "y": 0, "width": _COLUMNS * _WIDTH, "height": _HEADER_HEIGHT}
    return {"type": "text", **size, "properties": {"markdown": text}}


def _alarm_graph(region: str, alarm: Alarm) -> dict[str, Any]:
    metrics: list[list[Any]] = [
        _line(alarm.of, series.metric, id=series.id, stat=series.statistic, visible=alarm.expression is None)
        for series in alarm.series
    ]
    if alarm.expression is not None:
        metrics.append([{"expression": alarm.expression, "id": "watched", "label": alarm.title}])
    threshold = {"label": f"alarm {alarm.limit}", "value": alarm.threshold}
    return _graph(region, alarm.title, metrics, annotations={"horizontal": [threshold]})


def _line(of: EndpointVariant, metric: Metric, **rendering: object) -> list[Any]:
    dimensions = [part for pair in of.dimensions.items() for part in pair]
    return [metric.namespace, metric.name, *dimensions, rendering]


def _graph(region: str, title: str, metrics: list[list[Any]], **more: object) -> dict[str, Any]:
    axis = {"left": {"min": 0}}
    properties = {"metrics": metrics, "region": region, "title": title, "view": "timeSeries", "period": PERIOD_S}
    return {"type": "metric", "properties": {**properties, "yAxis": axis, **more}}
