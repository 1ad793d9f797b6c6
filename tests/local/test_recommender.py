"""Inference Recommender against the emulator: by the command line and by its client, and what the emulator refuses."""

import hashlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from recommender_results import hand_in, result

from capacity.measurements import (
    SHIPPED_FOLDER,
    Measurement,
    find_measurement,
    read_measurements,
    write_measurements,
)
from capacity.recommendation import EndpointRate, LoadTest, RecommendationRequest, job_parameters, job_prefix
from capacity.recommender import NoSuchJobError, Recommender, RecommenderError
from cli.main import main
from localcloud.pod import free_port
from localcloud.supervisor import Program, Supervisor, answers
from model_repo.payload import payload_archive
from model_repo.spec import load_spec

REGION = "us-east-1"
ROLE = "arn:aws:iam::123456789012:role/recommender"
BUCKET = "payload-models"
LOAD_TEST = LoadTest(max_invocations_per_minute_of_endpoint=EndpointRate(30_000), max_latency_p95_ms=500)
DEADLINE_S = 30
# A test's runner may ignore interrupts, and a child inherits that.
COMMAND = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from cli.main import main; main()"


Finished = Callable[..., tuple[int, str, str]]


class Aws:
    """One emulator, with a role and a bucket."""

    def __init__(self, url: str, state: Path) -> None:
        session: Any = boto3.Session("local", "local", region_name=REGION)
        once = Config(retries={"total_max_attempts": 1})
        services = ("s3", "sagemaker", "iam")
        self.s3, self.sagemaker, self.iam = (session.client(name, endpoint_url=url, config=once) for name in services)
        self.url, self.state = url, state

    def make_model(self, name: str) -> None:
        self.sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer={"Image": "triton"})

    def jobs(self, contained: str = "") -> dict[str, str]:
        listed = self.sagemaker.list_inference_recommendations_jobs(NameContains=contained)
        return {job["JobName"]: job["Status"] for job in listed["InferenceRecommendationsJobs"]}


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    port, state = free_port(), tmp_path_factory.mktemp("aws")
    supervisor, url = Supervisor(state), f"http://127.0.0.1:{port}"
    options = ("--no-triton", f"--port={port}", f"--state={state}")
    program = (sys.executable, "-m", "localcloud.aws_emulator", *options)
    supervisor.bring_up([Program("aws", program, ready=lambda: answers(f"{url}/moto-api/"), ports=(port,))])
    aws = Aws(url, state)
    trust = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    aws.iam.create_role(RoleName="recommender", AssumeRolePolicyDocument=policy)
    aws.s3.create_bucket(Bucket=BUCKET)
    yield aws
    supervisor.stop(["aws"])


@pytest.fixture
def aws(emulator: Aws, monkeypatch: pytest.MonkeyPatch) -> Aws:
    variables = {"AWS_ENDPOINT_URL": emulator.url, "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
    for name, value in {**variables, "AWS_DEFAULT_REGION": REGION}.items():
        monkeypatch.setenv(name, value)
    return emulator


@pytest.fixture
def request_(aws: Aws, request: pytest.FixtureRequest) -> RecommendationRequest:
    """A request of a model of its own."""
    model = hashlib.sha256(str(request.node.name).encode()).hexdigest()[:16]
    aws.make_model(model)
    return RecommendationRequest(
        spec=load_spec("bert-small"),
        model=model,
        payload_url=f"s3://{BUCKET}/payloads/0.tar.gz",
        instance_types=("ml.g4dn.xlarge", "ml.g4dn.2xlarge"),
        load_test=LOAD_TEST,
    )


def recommender(said: Callable[[str], None] = lambda _: None) -> Recommender:
    return Recommender(REGION, said)


def command(*arguments: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "recommend", *arguments], stdout=pipe, stderr=pipe, text=True
    )


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Finished:
    """Run a command to its end: status, output and what it says beside that."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["triton-stack", "recommend", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        status = ended.value.code
        assert isinstance(status, int)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def measuring(model: str) -> list[str]:
    """A run of the published experiment on one type."""
    subject = ["--model-name", model, "--store", f"s3://{BUCKET}", "--role-arn", ROLE]
    return ["run", "bert-small", *subject, "--instance-type", "ml.g4dn.xlarge"]


def job_of(run: list[str]) -> str:
    """The job that a run of `measuring` starts."""
    spec, key = load_spec("bert-small"), hashlib.sha256(payload_archive(load_spec("bert-small"))).hexdigest()
    asked = RecommendationRequest(
        spec=spec,
        model=run[run.index("--model-name") + 1],
        payload_url=f"s3://{BUCKET}/payloads/{key}.tar.gz",
        instance_types=("ml.g4dn.xlarge",),
        load_test=LOAD_TEST,
    )
    return f"{job_prefix(asked)}-1"


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What a process has said beside its output, up to the line with a text."""
    assert process.stderr
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return said
    raise AssertionError(f"it ended without {text}: {said}")


def find(rows: Sequence[Measurement]) -> int:
    found = find_measurement(rows, variant="trt-base", instance_type="ml.g4dn.xlarge")
    return found.max_invocations_per_minute_per_instance


# --- the command line -------------------------------------------------------------------------------------------------


def test_an_interrupted_run_leaves_its_job_and_the_same_command_waits_on(aws: Aws) -> None:
    aws.make_model("interrupted")
    run = measuring("interrupted")
    job = job_of(run)
    first = command(*run)
    said = read_until(first, f"{job} in progress")
    assert f"started {job}" in said
    first.send_signal(signal.SIGINT)
    assert f"{job} goes on, and is paid for" in first.communicate(timeout=DEADLINE_S)[1]
    assert first.returncode == 130
    assert aws.jobs(job) == {job: "IN_PROGRESS"}

    second = command(*run)
    said = read_until(second, f"{job} in progress")
    assert f"{job} is in progress: it is not measured twice" in said
    hand_in(aws.state, job, InferenceRecommendations=[result()])
    output, _ = second.communicate(timeout=DEADLINE_S)
    assert second.returncode == 0
    assert re.search(r"ml\.g4dn\.xlarge +3192 +783 +10 +0\.7364 +7\.36", output)
    assert list(aws.jobs(job[:-1])) == [job]


def test_what_a_run_has_found_is_saved_beside_what_others_did(aws: Aws, finished: Finished, tmp_path: Path) -> None:
    aws.make_model("saved")
    run = measuring("saved")
    job = job_of(run)
    hand_in(aws.state, job, InferenceRecommendations=[result()])
    assert finished(*run)[0] == 0
    file = tmp_path / "measured.csv"
    shipped = read_measurements(SHIPPED_FOLDER / "bert-large-g4dn.csv")
    write_measurements(file, shipped[:8])
    status, output, _ = finished("save", job, "--variant", "trt-base", "--to", str(file))
    assert (status, output) == (0, "trt-base ml.g4dn.xlarge: 3192 a minute and instance\n")
    before, after = (find(rows) for rows in (shipped[:8], read_measurements(file)))
    assert (before, after) == (643, 3192)
    assert len(read_measurements(file)) == 8


def test_the_job_is_given_the_requests_that_the_store_has(aws: Aws, finished: Finished) -> None:
    aws.make_model("asked")
    run = measuring("asked")
    job = job_of(run)
    hand_in(aws.state, job, InferenceRecommendations=[result()])
    assert finished(*run)[0] == 0
    given = aws.sagemaker.describe_inference_recommendations_job(JobName=job)["InputConfig"]
    url: str = given["ContainerConfig"]["PayloadConfig"]["SamplePayloadUrl"]
    stored = aws.s3.get_object(Bucket=BUCKET, Key=url.removeprefix(f"s3://{BUCKET}/"))["Body"].read()
    assert stored == payload_archive(load_spec("bert-small"))


def test_a_failed_run_says_why_in_a_line_and_so_does_show(aws: Aws, finished: Finished) -> None:
    aws.make_model("failing")
    run = measuring("failing")
    job = job_of(run)
    step = {"Status": "FAILED", "InferenceBenchmark": {**result(), "FailureReason": "ModelError: no answer in 60 s"}}
    hand_in(aws.state, job, Status="FAILED", FailureReason="Every benchmark failed", Steps=[step])
    status, _, errors = finished(*run)
    reasons = "Every benchmark failed; ml.g4dn.xlarge: ModelError: no answer in 60 s"
    log = "its log is in /aws/sagemaker/InferenceRecommendationsJobs"
    assert errors.splitlines()[-1] == f"error: {job} failed with 0 results: {reasons}; {log}"
    assert status == 1
    assert finished("show", job)[:2] == (0, f"{job} failed; benchmarks: 1 failed\n{reasons}\n")


def test_a_job_is_stopped_once_and_shown_as_json(request_: RecommendationRequest, finished: Finished) -> None:
    job = recommender().start(request_, ROLE)
    assert finished("stop", job)[:2] == (0, f"{job} is being stopped\n")
    assert finished("stop", job)[:2] == (0, f"{job} has ended before\n")
    shown = json.loads(finished("show", job, "--json")[1])
    assert (shown["status"], shown["recommendations"]) == ("STOPPED", [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "none"], "error: none is no job of this account and region"),
        (["save", "none", "--variant", "trt-db", "--to", "x.csv"], "error: none is no job of this account and region"),
        (measuring("nowhere"), "SageMaker: Could not find model"),
        ([*measuring("nowhere"), "--environment", "A"], 'error: --environment: "A" names no variable and value'),
    ],
)
@pytest.mark.usefixtures("aws")
def test_what_a_user_got_wrong_is_one_line(arguments: list[str], said: str, finished: Finished) -> None:
    status, _, errors = finished(*arguments)
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert status == 1
    assert said in line


# --- the client -------------------------------------------------------------------------------------------------------


def test_a_job_that_was_stopped_says_why_and_is_attempted_anew(aws: Aws, request_: RecommendationRequest) -> None:
    client = recommender()
    job = client.start(request_, ROLE)
    assert client.start(request_, ROLE) == job
    client.stop(job)
    with pytest.raises(RecommenderError, match=rf"{job} stopped with 0 results: The job was stopped\."):
        client.wait(job)
    assert client.start(request_, ROLE) == f"{job_prefix(request_)}-2"
    assert set(aws.jobs(job_prefix(request_))) == {job, f"{job_prefix(request_)}-2"}


def test_a_completed_job_is_not_measured_again_and_tells_which_of_its_benchmarks_failed(
    aws: Aws, request_: RecommendationRequest
) -> None:
    said: list[str] = []
    client = recommender(said.append)
    job = client.start(request_, ROLE)
    failed = {"Status": "FAILED", "InferenceBenchmark": {**result("ml.g4dn.2xlarge"), "FailureReason": "no quota"}}
    hand_in(aws.state, job, InferenceRecommendations=[result()], Steps=[{"InferenceBenchmark": result()}, failed])
    assert client.start(request_, ROLE) == job
    assert [found.instance_type for found in client.wait(job).recommendations] == ["ml.g4dn.xlarge"]
    assert said[-1] == f"{job} has no result of ml.g4dn.2xlarge: no quota"


def test_while_it_waits_it_tells_how_far_the_benchmarks_are(aws: Aws, request_: RecommendationRequest) -> None:
    job = recommender().start(request_, ROLE)
    begun: dict[str, Any] = {"ModelConfiguration": {}}
    steps = [{"InferenceBenchmark": result()}, {"Status": "IN_PROGRESS", "InferenceBenchmark": begun}]
    (aws.state / "recommendations").mkdir(exist_ok=True)
    (aws.state / "recommendations" / f"{job}.steps.json").write_text(json.dumps(steps))
    said: list[str] = []

    def end(line: str) -> None:
        said.append(line)
        hand_in(aws.state, job, InferenceRecommendations=[result()])

    recommender(end).wait(job)
    assert said == [f"{job} in progress; benchmarks: 1 completed, 1 in progress"]


def test_a_job_that_another_starts_at_the_same_moment_is_taken_up(
    aws: Aws, request_: RecommendationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = recommender().start(request_, ROLE)
    client = recommender()

    def none_yet(_: str) -> list[tuple[int, str]]:
        return []

    monkeypatch.setattr(client, "_attempts", none_yet)  # it looks before the other starts
    assert client.start(request_, ROLE) == job
    assert list(aws.jobs(job_prefix(request_))) == [job]


def test_advice_on_scaling_is_read_where_there_is_some(aws: Aws, request_: RecommendationRequest) -> None:
    said: list[str] = []
    client = recommender(said.append)
    job = client.start(request_, ROLE)
    tracked = {"Predefined": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}}
    by_cpu = {"Customized": {"MetricName": "CPUUtilization", "Namespace": "/aws/sagemaker/Endpoints"}}
    policies = [
        {"TargetTracking": {"TargetValue": value, "MetricSpecification": metric}}
        for value, metric in ((50.0, by_cpu), (1596.0, tracked))
    ]
    limits = {"MinCapacity": 2, "MaxCapacity": 10, "ScaleInCooldown": 300, "ScaleOutCooldown": 60}
    advice = {"DynamicScalingConfiguration": {**limits, "ScalingPolicies": policies}}
    other = {"DynamicScalingConfiguration": {**limits, "ScalingPolicies": policies[:1]}}
    results = [result(name) for name in ("ml.g4dn.xlarge", "ml.g4dn.2xlarge", "ml.g4dn.4xlarge")]
    scaling = {"ml.g4dn.xlarge": advice, "ml.g4dn.4xlarge": other}
    hand_in(aws.state, job, InferenceRecommendations=results, Scaling=scaling)
    advised, without, by_another_metric = client.wait(job).recommendations
    found = client.scaling_advice(job, advised)
    assert found
    assert (found.min_count, found.max_count, found.target_per_minute) == (2, 10, 1596.0)
    assert (found.scale_in_cooldown_s, found.scale_out_cooldown_s) == (300, 60)
    assert client.scaling_advice(job, without) is None
    assert "no advice on scaling: ml.g4dn.2xlarge" in said[-1]
    assert client.scaling_advice(job, by_another_metric) is None
    assert "none by invocations per instance" in said[-1]


def test_a_resource_that_goes_stops_its_job_if_it_runs(aws: Aws, request_: RecommendationRequest) -> None:
    from components.aws.recommendation import _Provider  # noqa: PLC0415  # pyright: ignore[reportPrivateUsage]

    job = recommender().start(request_, ROLE)
    for name in (job, job, "none"):  # running, stopped, and gone
        _Provider().delete(name, {"region": REGION})
    assert aws.jobs(job) == {job: "STOPPED"}


@pytest.mark.usefixtures("aws")
def test_aws_that_cannot_be_reached_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(RecommenderError, match=r"job: Could not connect") as caught:
        recommender().job("job")
    assert not isinstance(caught.value, NoSuchJobError)


# --- the emulator -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("InputConfig TrafficPattern", None, "TrafficPattern is a mandatory parameter"),
        ("InputConfig EndpointConfigurations", None, "EndpointConfigurations is a mandatory parameter"),
        ("StoppingConditions", None, "StoppingConditions is a mandatory parameter"),
        ("InputConfig ModelName", None, "either ModelName or ModelPackageVersionArn"),
        ("InputConfig ContainerConfig Domain", None, "Domain is a mandatory parameter"),
        ("InputConfig ContainerConfig PayloadConfig SamplePayloadUrl", "s3://a/b.json", "no gzip compressed tar"),
        ("InputConfig TrafficPattern Phases 0 InitialNumberOfUsers", 4, "must be between 1 and 3"),
        ("InputConfig TrafficPattern Phases 0 SpawnRate", 4, "must be between 0 and 3"),
        ("InputConfig TrafficPattern Phases 0 DurationInSeconds", 60, "must be between 120 and 3600"),
        ("InputConfig JobDurationInSeconds", 1400, "must not exceed the job duration"),
        ("StoppingConditions ModelLatencyThresholds 0 Percentile", "P99", "must be P95"),
        ("RoleArn", f"{ROLE}-none", "Could not assume role"),
    ],
)
def test_the_emulator_refuses_what_the_service_refuses(
    aws: Aws, request_: RecommendationRequest, path: str, value: str | int | None, said: str
) -> None:
    parameters: dict[str, Any] = {"JobName": "refused", "RoleArn": ROLE, **job_parameters(request_)}
    *parents, key = path.split()
    changed: Any = parameters
    for parent in parents:
        changed = changed[int(parent) if parent.isdigit() else parent]
    changed[key] = value
    if value is None:
        del changed[key]
    with pytest.raises(ClientError, match=said):
        aws.sagemaker.create_inference_recommendations_job(**parameters)
    assert "refused" not in aws.jobs()


def test_a_job_s_name_is_used_up(aws: Aws, request_: RecommendationRequest) -> None:
    parameters = {"JobName": "once", "RoleArn": ROLE, **job_parameters(replace(request_, load_test=None))}
    aws.sagemaker.create_inference_recommendations_job(**parameters)
    with pytest.raises(ClientError, match="ResourceInUse"):
        aws.sagemaker.create_inference_recommendations_job(**parameters)
