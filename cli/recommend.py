"""Recommendations: what an instance of a type sustains with a model, measured by SageMaker Inference Recommender."""

import json
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from capacity.measurements import write_measurements
from capacity.recommendation import (
    EndpointRate,
    LoadTest,
    RecommendationError,
    RecommendationRequest,
    check_instance_types,
    environment_text,
    measurements_of,
)
from capacity.recommender import Job, Recommender, ScalingAdvice
from cli.steps import console, step
from delivery.stack import Stack
from model_repo.payload import upload_payload
from model_repo.spec import load_spec
from model_repo.store import open_store

app = typer.Typer(no_args_is_help=True, help="Measure models on SageMaker's instances, by its Inference Recommender.")

_MEASURED_TYPES: Final = ("ml.g4dn.xlarge", "ml.g4dn.2xlarge", "ml.g4dn.12xlarge")
_PIPE_WIDTH: Final = 200

Name = Annotated[str, typer.Argument(help="Name of a spec in model_repo/models/.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="Name of a job, as `run` says it.")]
RoleArn = Annotated[str, typer.Option(help="Role that Inference Recommender acts as: AmazonSageMakerFullAccess.")]
StackName = Annotated[
    str | None, typer.Option("--stack", help="A deployed stack: its model is measured, its store takes the requests.")
]
ModelName = Annotated[
    str | None, typer.Option("--model-name", help="In place of the stack's: a SageMaker model or a package's ARN.")
]
StoreUrl = Annotated[str | None, typer.Option("--store", help="In place of the stack's: s3://BUCKET.")]
Region = Annotated[str | None, typer.Option(help="AWS region. Left out: the stack's, or the environment's.")]
InstanceTypes = Annotated[
    list[str] | None,
    typer.Option(
        "--instance-type", help=f"What is measured; repeat it for more. Left out: {', '.join(_MEASURED_TYPES)}."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


@app.command()
def run(
    name: Name,
    role_arn: RoleArn,
    stack: StackName = None,
    model_name: ModelName = None,
    store: StoreUrl = None,
    region: Region = None,
    instance_types: InstanceTypes = None,
    latency_ms: Annotated[int, typer.Option(help="P95 of the model's latency at which a test ends.")] = 500,
    max_invocations_per_minute: Annotated[
        int, typer.Option(help="Traffic of the whole endpoint, not of an instance, at which a test ends.")
    ] = 30_000,
    environment: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE,…", help="Values of a container's variable to compare; repeat it for more."),
    ] = None,
    users: Annotated[int, typer.Option(help="Users at a test's start, 1 to 3.")] = LoadTest.initial_users,
    new_users_per_minute: Annotated[
        int, typer.Option(help="Users that join every minute, 0 to 3.")
    ] = LoadTest.new_users_per_minute,
    duration_s: Annotated[int, typer.Option(help="Length of a test, 120 to 3600.")] = LoadTest.duration_s,
    parallel_tests: Annotated[int, typer.Option(help="Tests at a time.")] = LoadTest.parallel_tests,
    job_duration_s: Annotated[int, typer.Option(help="Length of the job at the most.")] = LoadTest.job_duration_s,
    as_json: Json = False,
) -> None:
    """Load a model as your traffic would (an Advanced job), wait for the end, show what each instance type sustains.

    The same request is measured once: given again, the command waits for the job that runs, or shows what it found.
    While it runs, the instances that it measures are paid for.

    Example: [bold]triton-stack recommend run bert-large --stack dev --latency-ms 500
    --role-arn arn:aws:iam::123456789012:role/recommender[/]

    Example: [bold]triton-stack recommend run bert-large --model-name triton-dev-model-1f2e3d4 --store s3://dev-models
    --role-arn arn:aws:iam::123456789012:role/recommender --instance-type ml.g4dn.xlarge[/]
    """
    test = LoadTest(
        max_invocations_per_minute_of_endpoint=EndpointRate(max_invocations_per_minute),
        max_latency_p95_ms=latency_ms,
        initial_users=users,
        new_users_per_minute=new_users_per_minute,
        duration_s=duration_s,
        environment={key: tuple(values.split(",")) for key, values in _pairs(environment).items()},
        parallel_tests=parallel_tests,
        job_duration_s=job_duration_s,
    )
    subject = _subject(stack, model_name, store, region)
    _measure(name, role_arn, subject, instance_types, test, as_json=as_json)


@app.command()
def suggest(
    name: Name,
    role_arn: RoleArn,
    stack: StackName = None,
    model_name: ModelName = None,
    store: StoreUrl = None,
    region: Region = None,
    instance_types: InstanceTypes = None,
    as_json: Json = False,
) -> None:
    """Let AWS's own benchmark (a Default job) suggest among instance types, to narrow what `run` is to load.

    Example: [bold]triton-stack recommend suggest bert-large --stack dev
    --role-arn arn:aws:iam::123456789012:role/recommender[/]
    """
    subject = _subject(stack, model_name, store, region)
    _measure(name, role_arn, subject, instance_types, None, as_json=as_json)


@app.command()
def show(job: JobName, region: Region = None, as_json: Json = False) -> None:
    """Show a job: how far it is, why it failed, or what it found and how SageMaker would scale that.

    Example: [bold]triton-stack recommend show bert-large-0c1d5e2f3a4b-1[/]
    """
    recommender = Recommender(region, _say)
    _show(recommender, recommender.job(job), as_json=as_json)


@app.command()
def save(
    job: JobName,
    variant: Annotated[str, typer.Option(help="What was measured: one of pt-base … trt-ig-db.")],
    to: Annotated[Path, typer.Option(help="File of measurements; what it has of others stays.")],
    environment: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Only results with this variable; repeat it for more."),
    ] = None,
    region: Region = None,
) -> None:
    """Save what a job found as measurements, which the instance counts of a stack are planned from.

    Example: [bold]triton-stack recommend save bert-large-0c1d5e2f3a4b-1 --variant trt-ig-db
    --to capacity/measurements/bert-large-g4dn.csv[/]
    """
    found = Recommender(region, _say).job(job).recommendations
    rows = measurements_of(found, variant=variant, environment=_pairs(environment))
    write_measurements(to, rows)
    for row in rows:
        print(f"{row.variant} {row.instance_type}: {row.max_invocations_per_minute_per_instance} a minute and instance")


@app.command()
def stop(job: JobName, region: Region = None) -> None:
    """Stop a job; what it has found so far stays.

    Example: [bold]triton-stack recommend stop bert-large-0c1d5e2f3a4b-1[/]
    """
    print(f"{job} {'is being stopped' if Recommender(region, _say).stop(job) else 'has ended before'}")


@dataclass(frozen=True)
class _Subject:
    """Which model is measured, and where."""

    model: str
    store: str
    region: str | None


def _subject(stack: str | None, model_name: str | None, store: str | None, region: str | None) -> _Subject:
    """What the options say, and the stack where they say nothing."""
    outputs: dict[str, Any] = (Stack(stack, os.environ).outputs().get("sagemaker") or {}) if stack else {}
    stack_store: str = "/".join(outputs.get("model_uri", "").split("/")[:3])
    found = _Subject(model_name or outputs.get("model_name", ""), store or stack_store, region or outputs.get("region"))
    if not found.model or not found.store:
        raise RecommendationError(
            f"stack {stack} serves no model on SageMaker; deploy it, or give --model-name and --store"
            if stack
            else "no model to measure; give --stack, or both --model-name and --store"
        )
    return found


def _measure(
    name: str,
    role_arn: str,
    subject: _Subject,
    instance_types: list[str] | None,
    load_test: LoadTest | None,
    *,
    as_json: bool,
) -> None:
    spec, measured_types = load_spec(name), tuple(instance_types or _MEASURED_TYPES)
    check_instance_types(measured_types, load_test)  # before anything is sent
    with step(f"measure {name}") as report:
        report("uploading sample requests")
        request = RecommendationRequest(
            spec=spec,
            model=subject.model,
            payload_url=upload_payload(open_store(subject.store), spec),
            instance_types=measured_types,
            load_test=load_test,
        )
        recommender = Recommender(subject.region, report)
        job_name = recommender.start(request, role_arn)
        with _left_running(job_name):
            job = recommender.wait(job_name)
    _show(recommender, job, as_json=as_json)


@contextmanager
def _left_running(job: str) -> Generator[None]:
    """Say what an interrupt leaves."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"{job} goes on, and is paid for: the same command waits on, `recommend stop {job}` ends it")
        raise


def _pairs(given: list[str] | None) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise RecommendationError(f'--environment: "{text}" names no variable and value; write NAME=VALUE')
        pairs[name] = value
    return pairs


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _show(recommender: Recommender, job: Job, *, as_json: bool) -> None:
    advice = {found.id: recommender.scaling_advice(job.name, found) for found in job.recommendations}
    if as_json:
        found = [{**asdict(each), "scaling": _plain(advice[each.id])} for each in job.recommendations]
        described = {"job": job.name, "status": job.status, "failure": job.failure, "recommendations": found}
        print(json.dumps({**described, "benchmarks": [asdict(each) for each in job.benchmarks]}, indent=2))
        return
    print(f"{job.name} {job.progress}")
    if not job.runs and job.status != "COMPLETED":
        print(job.reasons)
    if job.recommendations:
        # A pipe has no width: a row is a line there.
        Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(_table(job, advice))


def _plain(advice: ScalingAdvice | None) -> dict[str, Any] | None:
    return asdict(advice) if advice else None


def _table(job: Job, advice: Mapping[str, ScalingAdvice | None]) -> Table:
    table = Table("type", "environment", box=None, header_style="bold")
    for header in ("per minute and instance", "latency ms", "instances", "$/hour each", "$/hour", "scaling"):
        table.add_column(header, justify="right")
    for found in job.recommendations:
        scaling = advice[found.id]
        table.add_row(
            found.instance_type,
            environment_text(found.environment),
            str(found.max_invocations_per_minute_per_instance),
            str(found.model_latency_ms),
            str(found.instance_count),
            f"{found.price_usd_per_hour:g}",
            f"{found.instance_count * found.price_usd_per_hour:.2f}",
            f"{scaling.min_count} to {scaling.max_count} at {scaling.target_per_minute:g}" if scaling else "",
        )
    return table
