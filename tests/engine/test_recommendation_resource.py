"""A recommendation as a resource: measured once, kept, and stopped only while it runs."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from pulumi_stack import PulumiError, Stack
from recommender_results import hand_in, result

from localcloud.cloud import LocalCloud

NewStack = Callable[..., Stack]
DEADLINE_S = 60


@pytest.fixture(scope="module")
def stack(cloud: LocalCloud, new_stack: NewStack) -> Stack:
    endpoints = [dict.fromkeys(("s3", "sagemaker", "iam"), cloud.aws_url)]
    return new_stack("recommendation", aws__region="us-east-1", aws__endpoints=endpoints)


def jobs(cloud: LocalCloud) -> dict[str, str]:
    session: Any = boto3.Session("local", "local", region_name="us-east-1")
    listed = session.client("sagemaker", endpoint_url=cloud.aws_url).list_inference_recommendations_jobs()
    return {job["JobName"]: job["Status"] for job in listed["InferenceRecommendationsJobs"]}


def new_job(cloud: LocalCloud, before: dict[str, str], update: Future[Any]) -> str:
    """The job that an update starts, once it runs."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and not update.done():
        if new := jobs(cloud).keys() - before.keys():
            return new.pop()
        time.sleep(0.1)
    raise AssertionError(f"no job was started: {update.result(timeout=0)}")


def up(cloud: LocalCloud, stack: Stack, **found: Any) -> dict[str, Any]:
    """Update, and end the job that it starts."""
    before = jobs(cloud)
    with ThreadPoolExecutor() as pool:
        update = pool.submit(stack.up)
        hand_in(cloud.state, new_job(cloud, before, update), **found)
        return update.result()


def test_a_failed_job_fails_the_update_with_its_reasons_and_the_next_update_measures_again(
    cloud: LocalCloud, stack: Stack
) -> None:
    assert stack.operations()["bert-job"] == "create"  # asks no cloud: neither model nor bucket is there
    assert jobs(cloud) == {}
    step = {"Status": "FAILED", "InferenceBenchmark": {**result(), "FailureReason": "ModelError: no answer in 60 s"}}
    failure = {"Status": "FAILED", "FailureReason": "All benchmarks failed", "Steps": [step]}
    with pytest.raises(PulumiError, match=r"failed .* All benchmarks failed; ml\.g4dn\.xlarge: ModelError") as caught:
        up(cloud, stack, **failure)
    assert 'File "' not in str(caught.value)
    outputs = up(cloud, stack, InferenceRecommendations=[result()])
    assert outputs["job"].endswith("-2")
    (row,) = outputs["measurements"]
    assert (row["variant"], row["instance_type"]) == ("trt-ig-db", "ml.g4dn.xlarge")
    assert row["max_invocations_per_minute_per_instance"] == 3192
    assert (row["price_usd_per_hour"], row["cost_usd_per_hour"]) == (0.7364, 7.364)


def test_an_unchanged_program_measures_nothing(cloud: LocalCloud, stack: Stack) -> None:
    before = jobs(cloud)
    assert stack.preview() == []
    stack.up()
    assert jobs(cloud) == before


def test_another_traffic_is_another_job_and_the_first_is_taken_up_again_when_it_comes_back(
    cloud: LocalCloud, stack: Stack
) -> None:
    first = stack.outputs()["job"]
    stack.configure(rate=60_000)
    second = up(cloud, stack, InferenceRecommendations=[result()])["job"]
    assert second != first
    stack.configure(rate=None)
    assert stack.up()["job"] == first
    assert len(jobs(cloud)) == 3


def test_what_was_measured_stays_when_the_stack_goes(cloud: LocalCloud, stack: Stack) -> None:
    job = stack.outputs()["job"]
    stack.destroy()
    assert jobs(cloud)[job] == "COMPLETED"
