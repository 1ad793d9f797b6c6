"""SageMaker Inference Recommender: a job that is run once for a request, however often it is asked for."""

import re
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

from capacity.recommendation import (
    Recommendation,
    RecommendationRequest,
    environment_text,
    job_parameters,
    job_prefix,
    recommendations_of,
)

if TYPE_CHECKING:
    from types_boto3_sagemaker import SageMakerClient

_MAX_POLL_S: Final = 15.0

# A new role is known to IAM at once and to SageMaker some seconds later: https://github.com/pulumi/pulumi-aws/issues/2411
_ROLE_SECONDS: Final = 60

_RUNNING: Final = frozenset({"PENDING", "IN_PROGRESS", "STOPPING"})

_TRACKED: Final = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
_LIMITS: Final = frozenset({"MinCapacity", "MaxCapacity", "ScaleInCooldown", "ScaleOutCooldown"})

_LOG_GROUP: Final = "/aws/sagemaker/InferenceRecommendationsJobs"


class RecommenderError(RuntimeError):
    """A job that was refused, failed or was stopped: why."""


class NoSuchJobError(RecommenderError):
    """A name that is no job's."""


@dataclass(frozen=True)
class Benchmark:
    """One test of a job."""

    instance_type: str
    environment: Mapping[str, str]
    status: str
    failure: str | None


@dataclass(frozen=True)
class Job:
    """A job as it stands."""

    name: str
    status: str
    failure: str | None
    benchmarks: tuple[Benchmark, ...]
    recommendations: tuple[Recommendation, ...]

    @property
    def runs(self) -> bool:
        """Whether it is still to come to an end."""
        return self.status in _RUNNING

    @property
    def progress(self) -> str:
        """Its state and that of its benchmarks, in a line."""
        counts = Counter(benchmark.status for benchmark in self.benchmarks)
        parts = [f"{count} {_words(status)}" for status, count in sorted(counts.items())]
        return f"{_words(self.status)}{'; benchmarks: ' if parts else ''}{', '.join(parts)}"

    @property
    def reasons(self) -> str:
        """Why it, and every benchmark of it that did not complete, ended so."""
        own = self.failure or "it gave no reason"
        return "; ".join([own, *(_reason(each) for each in self.benchmarks if each.failure)])


@dataclass(frozen=True)
class ScalingAdvice:
    """How SageMaker would scale an endpoint of one recommendation."""

    min_count: int
    max_count: int
    target_per_minute: float
    """Invocations per minute and instance at which an instance is added."""
    scale_in_cooldown_s: int
    scale_out_cooldown_s: int


class Recommender:
    """Inference Recommender in one region.

    Credentials and endpoint are those of the environment.

    Args:
        region: AWS region; None: the environment's.
        report: Takes a line of progress.
    """

    def __init__(self, region: str | None, report: Callable[[str], None]) -> None:
        # Half a second to import, and a preview needs none of it.
        import boto3  # noqa: PLC0415

        self._report = report
        with _errors("Inference Recommender"):
            session: Any = boto3.Session(region_name=region)  # its types are those of a few services
            self._client: SageMakerClient = session.client("sagemaker")

    def start(self, request: RecommendationRequest, role_arn: str) -> str:
        """The name of the request's job: one that runs or has completed, or a new one where there is none.

        Args:
            request: What is measured.
            role_arn: Role that Inference Recommender makes its endpoints with:
                https://docs.aws.amazon.com/sagemaker/latest/dg/inference-recommender-prerequisites.html

        Raises:
            RecommenderError: SageMaker refuses the request.
        """
        prefix = job_prefix(request)
        attempt, status = max(self._attempts(prefix), default=(0, ""))
        if status in _RUNNING | {"COMPLETED"}:
            name = f"{prefix}-{attempt}"
            self._report(f"{name} is {_words(status)}: it is not measured twice")
            return name
        name = f"{prefix}-{attempt + 1}"
        with _errors(name):
            try:
                self._create(name, request, role_arn)
            except self._client.exceptions.ResourceInUse:
                self._report(f"{name} was started by another just now")
            else:
                self._report(f"started {name}")
        return name

    def wait(self, name: str) -> Job:
        """Wait for the end of a job.

        An interrupt leaves it running.

        Raises:
            RecommenderError: There is no such job, it failed or was stopped, or it has nothing to recommend.
        """
        poll_s, reported = 0.5, ""
        while (job := self.job(name)).runs:
            if job.progress != reported:
                reported = job.progress
                self._report(f"{name} {reported}")
            time.sleep(poll_s)
            poll_s = min(2 * poll_s, _MAX_POLL_S)
        if job.status != "COMPLETED" or not job.recommendations:
            count = len(job.recommendations)
            raise RecommenderError(
                f"{name} {_words(job.status)} with {count} results: {job.reasons}; its log is in {_LOG_GROUP}"
            )
        if failed := [_reason(each) for each in job.benchmarks if each.failure]:
            self._report(f"{name} has no result of {'; '.join(failed)}")
        return job

    def job(self, name: str) -> Job:
        """A job as it stands.

        Raises:
            NoSuchJobError: There is no such job.
        """
        with _errors(name):
            try:
                description = self._client.describe_inference_recommendations_job(JobName=name)
            except self._client.exceptions.ResourceNotFound as error:
                raise NoSuchJobError(f"{name} is no job of this account and region; look with --region") from error
            pages = self._client.get_paginator("list_inference_recommendations_job_steps").paginate(JobName=name)
            steps = [step for page in pages for step in page.get("Steps", [])]
        return Job(
            name=name,
            status=description["Status"],
            failure=description.get("FailureReason"),
            benchmarks=tuple(map(_benchmark, steps)),
            recommendations=recommendations_of(description),
        )

    def stop(self, name: str) -> bool:
        """Stop a job; False where it has ended already: the API keeps ended jobs and deletes none.

        Raises:
            NoSuchJobError: There is no such job.
        """
        if not self.job(name).runs:
            return False
        with _errors(name):
            self._client.stop_inference_recommendations_job(JobName=name)
        return True

    def scaling_advice(self, name: str, recommendation: Recommendation) -> ScalingAdvice | None:
        """How SageMaker would scale one recommendation of a completed job; None, said, where it does not answer.

        https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_GetScalingConfigurationRecommendation.html
        """
        try:
            with _errors(recommendation.instance_type):
                answer = self._client.get_scaling_configuration_recommendation(
                    InferenceRecommendationsJobName=name, RecommendationId=recommendation.id
                )
        except RecommenderError as error:
            self._report(f"no advice on scaling: {error}")
            return None
        advice = _advice(answer.get("DynamicScalingConfiguration", {}))
        if advice is None:
            self._report(f"no advice on scaling: {recommendation.instance_type}: none by invocations per instance")
        return advice

    def _attempts(self, prefix: str) -> list[tuple[int, str]]:
        """The jobs that a request had so far: number of the attempt, and status."""
        with _errors(prefix):
            pages = self._client.get_paginator("list_inference_recommendations_jobs").paginate(NameContains=prefix)
            jobs = [job for page in pages for job in page["InferenceRecommendationsJobs"]]
        found = [(re.fullmatch(rf"{prefix}-(\d+)", job["JobName"]), job["Status"]) for job in jobs]
        return [(int(match[1]), status) for match, status in found if match]

    @retry(
        retry=retry_if_exception(lambda error: "assume" in str(error)),
        wait=wait_fixed(2),
        stop=stop_after_delay(_ROLE_SECONDS),
        reraise=True,
    )
    def _create(self, name: str, request: RecommendationRequest, role_arn: str) -> None:
        parameters = job_parameters(request)
        self._client.create_inference_recommendations_job(JobName=name, RoleArn=role_arn, **parameters)


def _advice(configuration: Mapping[str, Any]) -> ScalingAdvice | None:
    """A whole answer that tracks invocations per instance; the API promises no member of it."""
    targets: list[float] = [
        tracking["TargetValue"]
        for policy in configuration.get("ScalingPolicies", [])
        if (tracking := policy.get("TargetTracking", {})).get("MetricSpecification", {}).get("Predefined") == _TRACKED
    ]
    if len(targets) != 1 or not configuration.keys() >= _LIMITS:
        return None
    return ScalingAdvice(
        min_count=configuration["MinCapacity"],
        max_count=configuration["MaxCapacity"],
        target_per_minute=targets[0],
        scale_in_cooldown_s=configuration["ScaleInCooldown"],
        scale_out_cooldown_s=configuration["ScaleOutCooldown"],
    )


def _benchmark(step: Mapping[str, Any]) -> Benchmark:
    found = step.get("InferenceBenchmark", {})
    parameters = found.get("ModelConfiguration", {}).get("EnvironmentParameters", [])
    return Benchmark(
        # A test that is still to get its endpoint has none.
        instance_type=found.get("EndpointConfiguration", {}).get("InstanceType", "a benchmark"),
        environment={each["Key"]: each["Value"] for each in parameters},
        status=step["Status"],
        failure=found.get("FailureReason"),
    )


def _reason(benchmark: Benchmark) -> str:
    what = " ".join(filter(None, [benchmark.instance_type, environment_text(benchmark.environment)]))
    return f"{what}: {benchmark.failure}"


def _words(status: str) -> str:
    return status.lower().replace("_", " ")


@contextmanager
def _errors(what: str) -> Generator[None]:
    """Tell what AWS refuses, or that it cannot be reached, in a line."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - as boto3

    try:
        yield
    except ClientError as error:
        raise RecommenderError(f"{what}: SageMaker: {error.response.get('Error', {}).get('Message', error)}") from error
    except BotoCoreError as error:
        raise RecommenderError(f"{what}: {error}") from error
