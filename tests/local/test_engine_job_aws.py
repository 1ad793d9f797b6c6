"""An engine built through SageMaker's processing jobs, against the emulator, which runs the job as a process."""

import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from tiny_engine import Job, install, order

from components.aws.engine_job import EngineBuildError, EngineJob, EngineRequest
from localcloud.pod import free_port
from localcloud.supervisor import Program, Supervisor, answers
from model_repo.engine_job.lease import lease_path, pointer_path
from model_repo.manifest import Manifest

REGION = "us-east-1"


class Aws:
    """One emulator."""

    def __init__(self, url: str, state: Path) -> None:
        session: Any = boto3.Session("local", "local", region_name=REGION)
        services = ("s3", "sagemaker", "iam")
        self.s3, self.sagemaker, self.iam = (session.client(name, endpoint_url=url) for name in services)
        self.state = state

    def make_role(self, name: str) -> None:
        trust = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
        policy = {"Version": "2012-10-17", "Statement": [trust]}
        self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(policy))

    def install(self, **environment: str) -> None:
        install(self.state / "programs", **environment)

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        return [each["Key"] for each in self.s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])]

    def jobs(self) -> list[str]:
        return [each["ProcessingJobName"] for each in self.sagemaker.list_processing_jobs()["ProcessingJobSummaries"]]

    def read(self, bucket: str, key: str) -> bytes:
        return self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    port, state = free_port(), tmp_path_factory.mktemp("aws")
    supervisor, url = Supervisor(state), f"http://127.0.0.1:{port}"
    options = ("--no-triton", f"--port={port}", f"--state={state}")
    program = (sys.executable, "-m", "localcloud.aws_emulator", *options)
    supervisor.bring_up([Program("aws", program, ready=lambda: answers(f"{url}/moto-api/"), ports=(port,))])
    yield url, state
    supervisor.stop(["aws"])


@pytest.fixture
def aws(emulator: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Aws:
    url, state = emulator
    variables = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    aws = Aws(url, state)
    aws.install()
    return aws


@pytest.fixture
def request_(aws: Aws, tmp_path: Path, request: pytest.FixtureRequest) -> EngineRequest:
    """A request for an engine of its own key, with its sources uploaded."""
    # A key of its own, so that job names do not meet.
    key = hashlib.sha256(str(request.node.name).encode()).hexdigest()
    bucket = f"models-{key[:16]}"
    aws.s3.create_bucket(Bucket=bucket)
    aws.make_role(key)
    job = Job(tmp_path / "job")
    for path in (job.folder / "source").rglob("*"):
        if path.is_file():
            name = path.relative_to(job.folder / "source")
            aws.s3.upload_file(str(path), bucket, f"{job.order.source_prefix}/{name}")
    wanted = {**job.order.model_dump(mode="json"), "key": key}
    source = f"s3://{bucket}/{job.order.source_prefix}"
    return EngineRequest(wanted, REGION, bucket, source, "image", f"arn:aws:iam::123456789012:role/{key}")


def run(request: EngineRequest) -> str:
    return EngineJob(request, lambda _: None).run()


def test_a_job_makes_a_repository_whose_bytes_are_the_manifest_s(
    aws: Aws, request_: EngineRequest, tmp_path: Path
) -> None:
    lines: list[str] = []
    digest = EngineJob(request_, lines.append).run()
    prefix = f"models/bert-small/{digest}"
    for name in aws.names(request_.bucket, prefix):
        path = tmp_path / "read" / name.removeprefix(f"{prefix}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(aws.read(request_.bucket, name))
    manifest = Manifest.from_bytes((tmp_path / "read/manifest.json").read_bytes())
    assert manifest.digest == digest
    assert manifest.check_folder(tmp_path / "read") == []
    assert aws.names(request_.bucket, lease_path(request_.order["key"])) == []
    assert re.search(r"started triton-engine-\w{16}-1 on ml\.g4dn\.xlarge; log: https://us-east-1\.console", lines[0])
    assert any("InProgress, " in line for line in lines)


def test_an_engine_that_is_there_is_not_built_again_and_another_variant_shares_it(
    aws: Aws, request_: EngineRequest
) -> None:
    digest, before = run(request_), aws.jobs()
    aws.install(TRTEXEC_FAULT="fails")
    assert run(request_) == digest
    other = {**order("trt-base").model_dump(mode="json"), "key": request_.order["key"]}
    assert run(replace(request_, order=other)) != digest
    assert aws.jobs() == before


def test_two_at_once_build_once(aws: Aws, request_: EngineRequest) -> None:
    before = len(aws.jobs())
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(run, [request_] * 4))
    assert len(set(digests)) == 1
    assert len(aws.jobs()) == before + 1


def test_an_update_that_was_interrupted_is_continued_by_the_next(aws: Aws, request_: EngineRequest) -> None:
    class Interrupt(BaseException):
        pass

    def interrupt(line: str) -> None:
        if "started" in line:
            raise Interrupt

    with pytest.raises(Interrupt):
        EngineJob(request_, interrupt).run()
    before = aws.jobs()
    lines: list[str] = []
    assert EngineJob(request_, lines.append).run()
    assert aws.jobs() == before
    assert "runs already; waiting for it" in lines[0]


def test_a_failed_job_is_told_with_its_reason_and_its_log_and_leaves_nothing_behind(
    aws: Aws, request_: EngineRequest
) -> None:
    aws.install(TRTEXEC_FAULT="fails")
    with pytest.raises(EngineBuildError) as caught:
        run(request_)
    text = str(caught.value)
    assert "\n" not in text
    assert re.search(r"engine \w{12}: triton-engine-\w{16}-1 failed: trtexec failed .* unsupported operator Foo", text)
    assert (
        "https://us-east-1.console.aws.amazon.com/cloudwatch/home?region=us-east-1#logsV2:log-groups/log-group/"
        "$252Faws$252Fsagemaker$252FProcessingJobs$3FlogStreamNameFilter$3Dtriton-engine-" in text
    )
    assert aws.names(request_.bucket) == aws.names(request_.bucket, "sources/")
    aws.install()
    assert run(request_)
    assert {name[-2:] for name in aws.jobs() if request_.order["key"][:16] in name} == {"-1", "-2"}


def test_a_lease_whose_holder_is_gone_is_taken_over_once_it_has_expired(aws: Aws, request_: EngineRequest) -> None:
    lease = {"job": "triton-engine-gone-1", "expires_at": time.time() - 1}
    aws.s3.put_object(Bucket=request_.bucket, Key=lease_path(request_.order["key"]), Body=json.dumps(lease))
    assert run(request_)
    assert "triton-engine-gone-1" not in aws.jobs()


def test_a_lease_whose_holder_never_started_its_job_is_a_job_that_the_next_one_starts(
    aws: Aws, request_: EngineRequest
) -> None:
    name = f"triton-engine-{request_.order['key'][:16]}-7"
    lease = {"job": name, "expires_at": time.time() + 60}
    aws.s3.put_object(Bucket=request_.bucket, Key=lease_path(request_.order["key"]), Body=json.dumps(lease))
    assert run(request_)
    assert name in aws.jobs()


def test_a_job_that_outlives_its_lease_is_stopped(aws: Aws, request_: EngineRequest) -> None:
    programs = aws.state / "programs"
    (programs / "trtexec").write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    name = f"triton-engine-{request_.order['key'][:16]}-1"
    lease = {"job": name, "expires_at": time.time() + 1}
    aws.s3.put_object(Bucket=request_.bucket, Key=lease_path(request_.order["key"]), Body=json.dumps(lease))
    with pytest.raises(EngineBuildError, match=f"{name} stopped: "):
        run(request_)
    assert aws.names(request_.bucket, "builds/") == []


def test_a_record_that_says_where_an_engine_is_can_be_read_by_whoever_serves_it(
    aws: Aws, request_: EngineRequest
) -> None:
    assert not EngineJob(request_, print).is_built()
    run(request_)
    assert EngineJob(request_, print).is_built()
    record = json.loads(aws.read(request_.bucket, pointer_path(request_.order["key"])))
    assert record["location"] in aws.names(request_.bucket)


def test_a_role_that_sagemaker_does_not_know_yet_is_waited_for(aws: Aws, request_: EngineRequest) -> None:
    name = f"late-{request_.order['key'][:16]}"
    late = replace(request_, role_arn=f"arn:aws:iam::123456789012:role/{name}")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(run, late)
        lease = lease_path(request_.order["key"])
        deadline = time.monotonic() + 30
        while not aws.names(request_.bucket, lease) and time.monotonic() < deadline:  # it is at it
            time.sleep(0.05)
        aws.make_role(name)
        assert waiting.result()
