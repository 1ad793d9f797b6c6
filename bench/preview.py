"""`preview_prod`: seconds of `pulumi preview --stack prod`, beside a flat program that registers the same resources (as
many, of the same types, with the same inputs) by the same engine and plugins. The two run in turn, so that what else
the machine does falls on both; the ratio of their medians is what settings, plans and components cost.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from delivery.stack import PROJECT_FOLDER
from localcloud.cloud import LocalCloud, Ports
from localcloud.toolchain import find_or_build

STACK = "prod"
RUNS = 7


def measure() -> dict[str, Any]:
    """Measure and print."""
    find_or_build(print)
    with tempfile.TemporaryDirectory() as scratch:
        environment = {
            **os.environ,
            **LocalCloud(Path(scratch), Ports(), t4_nodes=0).environment(),
            "PYTHONPATH": str(PROJECT_FOLDER),
        }
        program = _project(Path(scratch) / "program", PROJECT_FOLDER / "__main__.py")
        flat = _project(Path(scratch) / "flat", Path(__file__).parent / "flat_program.py")
        for project in (program, flat):
            _pulumi(project, environment, "stack", "init", STACK)
        resources = _planned(json.loads(_pulumi(program, environment, "preview", "--stack", STACK, "--json")))
        (flat / "resources.json").write_text(json.dumps(resources))
        registered = _planned(json.loads(_pulumi(flat, environment, "preview", "--stack", STACK, "--json")))
        if sorted(r["type"] for r in registered) != sorted(r["type"] for r in resources):
            sys.exit("the flat program does not register the same types: the figures would compare two things")
        seconds: dict[str, list[float]] = {"program": [], "flat": []}
        for run in range(RUNS):
            seconds["program"].append(_timed(program, environment))
            seconds["flat"].append(_timed(flat, environment))
            print(f"run {run + 1} of {RUNS}: program {seconds['program'][-1]:.2f} s, flat {seconds['flat'][-1]:.2f} s")
    medians = {name: statistics.median(runs) for name, runs in seconds.items()}
    result = {
        "resources": len(resources),
        "seconds": {name: [round(run, 3) for run in runs] for name, runs in seconds.items()},
        "median_seconds": {name: round(median, 3) for name, median in medians.items()},
        "ratio": round(medians["program"] / medians["flat"], 3),
        "aim": 1.15,
    }
    print(f"ratio {result['ratio']} over {len(resources)} resources (aim 1.15)")
    return {"preview_prod": result}


def _project(folder: Path, program: Path) -> Path:
    """A project folder with one program and prod's stack file, so that the checkout's own is never written to."""
    folder.mkdir()
    for name in ("Pulumi.yaml", f"Pulumi.{STACK}.yaml"):
        shutil.copy(PROJECT_FOLDER / name, folder)
    shutil.copy(program, folder / "__main__.py")
    (folder / "state").mkdir()
    return folder


def _planned(preview: dict[str, Any]) -> list[dict[str, Any]]:
    """Type, name and inputs of every resource of a preview, but the stack itself and providers by default."""
    states = [step["newState"] for step in preview["steps"] if step["op"] == "create"]
    return [
        {"type": state["type"], "name": state["urn"].split("::")[-1], "inputs": state.get("inputs", {})}
        for state in states
        if state["type"] != "pulumi:pulumi:Stack" and "default" not in state["urn"].split("::")[-1]
    ]


def _timed(project: Path, environment: dict[str, str]) -> float:
    started = time.perf_counter()
    _pulumi(project, environment, "preview", "--stack", STACK)
    return time.perf_counter() - started


def _pulumi(project: Path, environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        ["pulumi", *command, "--non-interactive"],
        cwd=project,
        env={**environment, "PULUMI_BACKEND_URL": (project / "state").as_uri()},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"`pulumi {' '.join(command)}` failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout
