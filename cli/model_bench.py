"""`triton-stack model bench`: what dynamic batching and a second instance bring on this machine's CPU."""

import json
import os
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from cli.steps import step
from localcloud.pod import free_port
from localcloud.triton import Triton, TritonInstall, install
from model_repo.build import ModelArtifact, build
from model_repo.loadtest import Load, measure
from model_repo.recipe import named_recipe
from model_repo.spec import load_spec
from model_repo.variant import VARIANTS, Variant

# On a CPU both frameworks are the same ONNX file in onnxruntime.
_VARIANTS: Final = ("trt-base", "trt-db", "trt-ig", "trt-ig-db")

_START_SECONDS: Final = 60

_BOUND: Final = """
An instance computes on one thread. Where all instances are busy, cores bound the throughput: a batch then saves only
what a request costs beside the arithmetic, and loses where it outgrows the caches; another instance helps while a core
is free. This client and Triton's own threads take their share. A GPU gains more: it computes a batch side by side."""


def bench(
    name: Annotated[str, typer.Argument(help="Name of a spec in model_repo/models/.")] = "bert-small",
    seconds: Annotated[int, typer.Option(min=1, max=30, help="How long to measure each configuration.")] = 10,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests under way at a time.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Measure a model on this machine's CPU: one instance or two, with dynamic batching and without.

    Each configuration is served by a Triton of its own, on the loopback. Once the model is built, that takes under
    3 minutes whatever the options.

    Example: [bold]triton-stack model bench bert-small --seconds 10[/]
    """
    spec = load_spec(name)
    artifacts: list[ModelArtifact] = []
    for variant in _VARIANTS:
        with step(f"build {name} {variant}") as report:
            artifacts.append(build(named_recipe(name, variant), report))
    loads: dict[str, Load] = {}
    with TemporaryDirectory(prefix="triton-stack-bench-") as folder:
        installed = install(Path(folder) / "triton")
        for artifact in artifacts:
            variant = artifact.manifest.variant
            with step(f"measure {name} {variant}") as report:
                report("starting Triton")
                with closing(_Server(installed, artifact, Path(folder) / f"{variant}.log")) as server:
                    report(f"warming up, then {seconds} s that count")
                    loads[variant] = measure(server.address, spec, concurrency=concurrency, seconds=seconds)
    base = loads[_VARIANTS[0]].throughput_per_minute
    rows = [_row(VARIANTS[variant], load, concurrency, base) for variant, load in loads.items()]
    if as_json:
        print(json.dumps({"model": name, "cpu_cores": _cores(), "configurations": rows}, indent=2))
    else:
        _print_table(name, rows)


class _Server:
    """A Triton on the CPU that serves one repository by gRPC."""

    def __init__(self, installed: TritonInstall, artifact: ModelArtifact, log: Path) -> None:
        http, grpc = free_port(), free_port()
        arguments = [f"--model-repository={artifact.folder}", "--allow-metrics=false"]
        arguments += [f"--http-port={http}", f"--grpc-port={grpc}"]
        ready = (http, "/v2/health/ready")
        self._triton = Triton(
            installed, arguments, {}, ports=[http, grpc], ready=ready, seconds=_START_SECONDS, log=log
        )
        self.address = "{}:{}".format(*self._triton.pod.addresses[grpc])

    def close(self) -> None:
        self._triton.stop()


def _row(variant: Variant, load: Load, concurrency: int, base_per_minute: float) -> dict[str, Any]:
    return {
        "configuration": variant.name,
        "optimisation": "onnxruntime",
        "dynamic_batching": variant.dynamic_batching,
        "instances": variant.instances_per_gpu,
        "concurrency": concurrency,
        **asdict(load),
        "speed_up": load.throughput_per_minute / base_per_minute,
    }


def _print_table(name: str, rows: list[dict[str, Any]]) -> None:
    title = f"{name} on {_cores()} CPU cores, {rows[0]['concurrency']} requests at a time"
    table = Table(title=title, box=None, header_style="bold", collapse_padding=True)
    for column in ("config-\nuration", "optimis-\nation", "dynamic\nbatching"):
        table.add_column(column)
    for column in ("inst-\nances", "per\nminute", "p50\nms", "p95\nms", "speed-\nup", "batch\nsize", "inst.\nbusy"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["configuration"],
            row["optimisation"],
            "yes" if row["dynamic_batching"] else "no",
            str(row["instances"]),
            f"{row['throughput_per_minute']:,.0f}",
            f"{row['latency_p50_ms']:.1f}",
            f"{row['latency_p95_ms']:.1f}",
            f"{row['speed_up']:.2f}",
            f"{row['batch_size']:.1f}",
            f"{row['busy_instances']:.2f}",
        )
    Console().print(table)
    print(_BOUND)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
