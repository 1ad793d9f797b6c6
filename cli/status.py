"""The table of what a stack serves."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from delivery.smoke import Answer
from delivery.status import TargetStatus

_DIGEST_SHOWN = 12
_PIPE_WIDTH = 200


def show_status(targets: Sequence[TargetStatus], answers: Sequence[Answer], *, as_json: bool) -> None:
    """Print every target, and what it answered to an inference.

    Args:
        targets: What is served.
        answers: What was answered; empty where nothing was asked.
        as_json: One JSON object in place of tables.
    """
    if as_json:
        asked = [{"target": a.target, "protocol": a.protocol, "latency_ms": round(a.latency_ms, 3)} for a in answers]
        print(json.dumps({"targets": [asdict(target) for target in targets], "answers": asked}, indent=2))
        return
    # A pipe has no width: a row is a line there.
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    console.print(_targets(targets))
    if answers:
        console.print(_answers(answers))


def _targets(targets: Sequence[TargetStatus]) -> Table:
    table = Table(box=None, header_style="bold")
    for header in ("target", "endpoint", "model", "variant", "digest", "type"):
        table.add_column(header, overflow="fold")
    for header in ("min/now/max", "target per min", "$/hour"):
        table.add_column(header, justify="right")
    for target in targets:
        table.add_row(
            target.target,
            target.endpoint,
            target.model,
            target.variant,
            target.digest[:_DIGEST_SHOWN],
            target.instance_type,
            f"{target.min_count}/{target.now_count}/{target.max_count}",
            f"{target.scaling_target_per_minute:g}",
            "unknown" if target.cost_usd_per_hour is None else f"{target.cost_usd_per_hour:.2f}",
        )
    return table


def _answers(answers: Sequence[Answer]) -> Table:
    table = Table("inference", "over", box=None, header_style="bold")
    table.add_column("ms", justify="right")
    for answer in answers:
        table.add_row(answer.target, answer.protocol, f"{answer.latency_ms:.0f}")
    return table
