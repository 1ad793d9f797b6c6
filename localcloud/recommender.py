"""SageMaker Inference Recommender's jobs. They measure nothing here: what they are to find is handed in.

A job stays IN_PROGRESS until `<folder>/<job>.json` is there, an object with any of

- `Status` (COMPLETED, or FAILED, or STOPPED) and `FailureReason`,
- `InferenceRecommendations`, as the API has them,
- `Steps`, as ListInferenceRecommendationsJobSteps has them: left out, a completed benchmark for each recommendation,
- `Scaling`: RecommendationId → what GetScalingConfigurationRecommendation answers.

While a job runs, `<folder>/<job>.steps.json` may have its steps so far.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moto.sagemaker.exceptions import ResourceInUseException, ResourceNotFound, ValidationError

# https://docs.aws.amazon.com/sagemaker/latest/dg/inference-recommender-load-test.html
_RANGES = {"InitialNumberOfUsers": (1, 3), "SpawnRate": (0, 3), "DurationInSeconds": (120, 3600)}
_MAX_JOB_S = 18_000


class Recommender:
    """The jobs of one region.

    Args:
        folder: Where results are handed in.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jobs: dict[str, dict[str, Any]] = {}

    def create(self, request: Mapping[str, Any], arn_prefix: str) -> dict[str, Any]:
        """Record a job, unless SageMaker would refuse it."""
        name: str = request["JobName"]
        if name in self._jobs:
            raise ResourceInUseException(f"Job {name} already exists")
        if refusal := _refusal(request):
            raise ValidationError(refusal)
        now, arn = datetime.now(UTC), f"{arn_prefix}/{name}"
        times = {"CreationTime": now, "LastModifiedTime": now}
        self._jobs[name] = {"JobDescription": "", **request, "JobArn": arn, "Status": "IN_PROGRESS", **times}
        return {"JobArn": arn}

    def describe(self, name: str) -> dict[str, Any]:
        """A job, with what was handed in for it."""
        if name not in self._jobs:
            raise ResourceNotFound(f"Could not find inference recommendations job {name}")
        job, result = self._jobs[name], self._folder / f"{name}.json"
        if job["Status"] == "IN_PROGRESS" and result.exists():
            job |= {"Status": "COMPLETED", "CompletionTime": datetime.now(UTC), **json.loads(result.read_bytes())}
        return job

    def jobs(self, contained: str) -> dict[str, Any]:
        """The jobs whose names contain a text."""
        return {"InferenceRecommendationsJobs": [self.describe(name) for name in self._jobs if contained in name]}

    def steps(self, name: str) -> dict[str, Any]:
        """A job's benchmarks."""
        job, running = self.describe(name), self._folder / f"{name}.steps.json"
        if job["Status"] == "IN_PROGRESS":
            given: list[dict[str, Any]] = json.loads(running.read_bytes()) if running.exists() else []
        else:
            results = [{"InferenceBenchmark": each} for each in job.get("InferenceRecommendations", [])]
            given = job.get("Steps", results)
        known = {"StepType": "BENCHMARK", "JobName": name, "Status": "COMPLETED"}
        return {"Steps": [{**known, **step} for step in given]}

    def stop(self, name: str) -> None:
        """Stop a job, if it runs."""
        job = self.describe(name)
        if job["Status"] == "IN_PROGRESS":
            job |= {"Status": "STOPPED", "FailureReason": "The job was stopped."}

    def scaling(self, name: str, recommendation: str) -> dict[str, Any]:
        """Advice on scaling; where none was handed in, there is no such action."""
        advice: dict[str, Any] = self.describe(name).get("Scaling", {})
        if recommendation not in advice:
            raise NotImplementedError("get_scaling_configuration_recommendation")
        return {"InferenceRecommendationsJobName": name, "RecommendationId": recommendation, **advice[recommendation]}


def _refusal(request: Mapping[str, Any]) -> str | None:
    """Why SageMaker refuses a request; None where it does not."""
    given: Mapping[str, Any] = request["InputConfig"]
    if ("ModelName" in given) == ("ModelPackageVersionArn" in given):
        return "Specify either ModelName or ModelPackageVersionArn"
    container = given.get("ContainerConfig", {})
    for required in ("Domain", "Task", "Framework", "FrameworkVersion", "PayloadConfig"):
        if "ModelName" in given and required not in container:
            return f"Specify {required} in ContainerConfig. {required} is a mandatory parameter for the job."
    payload = container.get("PayloadConfig", {}).get("SamplePayloadUrl", "s3://…/payload.tar.gz")
    if not re.fullmatch(r"s3://.+\.tar\.gz", payload):
        return f"SamplePayloadUrl {payload} is no gzip compressed tar archive in Amazon S3"
    return _load_refusal(request) if request["JobType"] == "Advanced" else None


def _load_refusal(request: Mapping[str, Any]) -> str | None:
    given: Mapping[str, Any] = request["InputConfig"]
    for required in ("TrafficPattern", "EndpointConfigurations"):
        if required not in given:
            return f"{required} is a mandatory parameter for an Advanced job"
    conditions = request.get("StoppingConditions")
    if not conditions:
        return "StoppingConditions is a mandatory parameter for an Advanced job"
    if any(each["Percentile"] != "P95" for each in conditions.get("ModelLatencyThresholds", [])):
        return "The percentile of an Advanced job must be P95"
    phases: list[dict[str, int]] = given["TrafficPattern"].get("Phases", [])
    for key, (low, high) in _RANGES.items():
        if any(not low <= phase[key] <= high for phase in phases):
            return f"{key} must be between {low} and {high}"
    duration_s = given.get("JobDurationInSeconds", _MAX_JOB_S)
    if duration_s > _MAX_JOB_S or sum(phase["DurationInSeconds"] for phase in phases) > duration_s:
        return "Total traffic duration (across phases) must not exceed the job duration, which is 18000 seconds at most"
    return None
