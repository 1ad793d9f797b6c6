"""What SageMaker Inference Recommender is asked, and what it answers: pure, without a client.

Members and ranges are those of
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateInferenceRecommendationsJob.html and, where that is
wider than what the service takes, of https://docs.aws.amazon.com/sagemaker/latest/dg/inference-recommender-load-test.html.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NewType

from capacity.instance_types import INSTANCE_TYPES
from capacity.measurements import Measurement
from model_repo.payload import CONTENT_TYPE
from model_repo.spec import ModelSpec
from model_repo.variant import parse_variant

EndpointRate = NewType("EndpointRate", int)
"""Invocations a minute of a whole endpoint: what `MaxInvocations` means in a job's stopping conditions."""

InstanceRate = NewType("InstanceRate", int)
"""Invocations a minute of one instance: what `MaxInvocations` means in a job's results."""

# By the kind of a model's source. The API's list of tasks has none for the classification of texts: what AWS measured
# BERT under is FILL_MASK, and CLASSIFICATION is of tables.
_DOMAINS: Final = {
    "transformers": ("NATURAL_LANGUAGE_PROCESSING", "FILL_MASK"),
    "gpt2": ("NATURAL_LANGUAGE_PROCESSING", "TEXT_GENERATION"),
    "torchvision": ("COMPUTER_VISION", "IMAGE_CLASSIFICATION"),
}

# Triton and TensorRT are not on the API's list of frameworks; every model here comes from PyTorch. The version is that
# of AWS's own benchmark: it names what to compare with, and chooses no image.
_FRAMEWORK: Final = {"Framework": "PYTORCH", "FrameworkVersion": "1.6.0"}

_MAX_TYPES: Final = 10
_MAX_VARIABLES: Final = 5
_MAX_VALUES: Final = 3
_MAX_RESULTS: Final = 10
"""A job answers with no more: what is tested beyond is paid for and lost."""

# SageMaker gives a container 60 s for an answer:
# https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
_MAX_LATENCY_MS: Final = 60_000

# The resources that a job makes carry its name's first 40 characters.
_LABEL_LENGTH: Final = 20
_DIGEST_LENGTH: Final = 12


class RecommendationError(ValueError):
    """A request that Inference Recommender would refuse, or a result that cannot be used: what, and what to do."""


@dataclass(frozen=True, kw_only=True)
class LoadTest:
    """The traffic of an Advanced job, and when it has seen enough.

    Raises:
        RecommendationError: A value is out of its range.
    """

    max_invocations_per_minute_of_endpoint: EndpointRate
    """The traffic to size for. The test ends once the endpoint takes it; no instance is expected to, alone."""
    max_latency_p95_ms: int
    """Model latency at which the test ends, 1 to 60,000; a load test knows no other percentile."""
    initial_users: int = 2
    """Users that send one request after the other from the start, 1 to 3."""
    new_users_per_minute: int = 2
    """Users that join them every minute, 0 to 3: `SpawnRate` counts by the minute, not by the second."""
    duration_s: int = 1500
    """Length of each test, 120 to 3,600."""
    environment: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Variables of the container, at most 5, each with 1 to 3 values: every combination is tested."""
    parallel_tests: int = 1
    """Tests at a time, at least 1; each takes an instance of the account's quota."""
    job_duration_s: int = 7200
    """After which the job is over whatever is still to be tested, at most 18,000."""

    def __post_init__(self) -> None:
        """Hold every value against its range."""
        _in_range("max_invocations_per_minute_of_endpoint", self.max_invocations_per_minute_of_endpoint, 1)
        _in_range("max_latency_p95_ms", self.max_latency_p95_ms, 1, _MAX_LATENCY_MS)
        _in_range("initial_users", self.initial_users, 1, 3)
        _in_range("new_users_per_minute", self.new_users_per_minute, 0, 3)
        _in_range("duration_s", self.duration_s, 120, 3600)
        _in_range("parallel_tests", self.parallel_tests, 1)
        _in_range("job_duration_s", self.job_duration_s, self.duration_s, 18_000)
        _in_range("environment: the number of variables", len(self.environment), 0, _MAX_VARIABLES)
        for name, values in self.environment.items():
            _in_range(f"environment: {name}: the number of values", len(values), 1, _MAX_VALUES)


@dataclass(frozen=True, kw_only=True)
class RecommendationRequest:
    """What is measured: one model on some instance types.

    Raises:
        RecommendationError: A value is out of its range.
    """

    spec: ModelSpec
    model: str
    """Name of a SageMaker model, or ARN of a version of a model package."""
    payload_url: str
    """`s3://…` of the archive of sample requests."""
    instance_types: tuple[str, ...]
    """One to ten, each once."""
    load_test: LoadTest | None
    """None: a Default job, which brings a traffic of its own."""
    variant: str | None = None
    """How the model serves it, for who reads the list of jobs; None where one job tries several."""

    def __post_init__(self) -> None:
        """Hold the instance types against their limits."""
        check_instance_types(self.instance_types, self.load_test)


@dataclass(frozen=True)
class Recommendation:
    """One result: a configuration, and what it did at the most that one instance of it takes."""

    id: str
    instance_type: str
    environment: Mapping[str, str]
    """The variables that were tested, each with its value."""
    instance_count: int
    """Instances that are recommended for the request's traffic."""
    max_invocations_per_minute_per_instance: InstanceRate
    model_latency_ms: int
    price_usd_per_hour: float
    """Of one instance."""


def check_instance_types(instance_types: tuple[str, ...], load_test: LoadTest | None) -> None:
    """Hold instance types against the API's limits, and against the time that a load test has for them.

    Raises:
        RecommendationError: They are too many, unknown, or more than the job's time allows.
    """
    _in_range("instance_types: their number", len(instance_types), 1, _MAX_TYPES)
    for name in instance_types:
        _in_range(f"instance_types: the number of {name}", instance_types.count(name), 1, 1)
        if name not in INSTANCE_TYPES:
            raise RecommendationError(f'instance_types: "{name}" has no T4; one of {", ".join(INSTANCE_TYPES)}')
    if load_test is None:
        return
    tests, parallel = _count_tests(instance_types, load_test), load_test.parallel_tests
    _in_range("instance_types and environment: the number of their combinations", tests, 1, _MAX_RESULTS)
    if (needed_s := math.ceil(tests / parallel) * load_test.duration_s) > load_test.job_duration_s:
        raise RecommendationError(
            f"job_duration_s: {load_test.job_duration_s} is less than the {needed_s} s that {tests} tests of "
            f"{load_test.duration_s} s take, {parallel} at a time; allow more, up to 18000, or test less"
        )


def job_parameters(request: RecommendationRequest) -> dict[str, Any]:
    """The parameters of `create_inference_recommendations_job`, without the job's name and role."""
    domain, task = _DOMAINS[request.spec.source.kind]
    container: dict[str, Any] = {
        "Domain": domain,
        "Task": task,
        **_FRAMEWORK,
        "PayloadConfig": {"SamplePayloadUrl": request.payload_url, "SupportedContentTypes": [CONTENT_TYPE]},
        "SupportedInstanceTypes": list(request.instance_types),
    }
    kind = "ModelPackageVersionArn" if request.model.startswith("arn:") else "ModelName"
    subject: dict[str, Any] = {kind: request.model, "ContainerConfig": container}
    described = {"JobDescription": f"{request.spec.name}, {request.variant}"} if request.variant else {}
    test = request.load_test
    if test is None:
        # Left out, the results would have serverless endpoints among them, which have no GPU.
        container["SupportedEndpointType"] = "RealTime"
        return {"JobType": "Default", "InputConfig": subject} | described
    return described | {
        "JobType": "Advanced",
        "InputConfig": subject | _load(test, request.instance_types),
        "StoppingConditions": {
            "MaxInvocations": test.max_invocations_per_minute_of_endpoint,
            "ModelLatencyThresholds": [{"Percentile": "P95", "ValueInMilliseconds": test.max_latency_p95_ms}],
        },
    }


def job_prefix(request: RecommendationRequest) -> str:
    """What the names of all jobs of a request begin with: the same request, the same names.

    A name is used up by its job for as long as the account and region exist, so it has the number of the attempt
    after this.
    """
    measured = json.dumps(job_parameters(request), sort_keys=True).encode()
    digest = hashlib.sha256(measured).hexdigest()[:_DIGEST_LENGTH]
    return f"{request.spec.name[:_LABEL_LENGTH].rstrip('-')}-{digest}"


def recommendations_of(description: Mapping[str, Any]) -> tuple[Recommendation, ...]:
    """The results of a job, as `DescribeInferenceRecommendationsJob` answers.

    Units are those of https://docs.aws.amazon.com/sagemaker/latest/dg/inference-recommender-interpret-results.html: the
    latency in milliseconds, which that guide's examples still have in microseconds. `CostPerHour` is "for the instance"
    (https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_RecommendationMetrics.html).

    Raises:
        RecommendationError: A result lacks a metric, or its latency cannot be in milliseconds.
    """
    return tuple(_recommendation(each) for each in description.get("InferenceRecommendations", []))


def measurements_of(
    recommendations: Iterable[Recommendation], *, variant: str, environment: Mapping[str, str]
) -> tuple[Measurement, ...]:
    """The results as rows of a measurement file, an instance type each.

    Args:
        recommendations: Of one job.
        variant: What was measured, as the caller knows; the job does not.
        environment: Variables and the values that tell the variant's results from others of the same job.

    Raises:
        RecommendationError: No result has that environment, or several of one instance type have it.
        model_repo.variant.VariantError: There is no such variant.
    """
    name = parse_variant(variant).name
    rows: dict[str, Measurement] = {}
    for found in recommendations:
        if not environment.items() <= found.environment.items():
            continue
        if found.instance_type in rows:
            raise RecommendationError(
                f'{found.instance_type} has several results, one of them with "{environment_text(found.environment)}": '
                "name the environment that is to be saved"
            )
        rows[found.instance_type] = _measurement(found, name)
    if not rows:
        which = f' with "{environment_text(environment)}"' if environment else ""
        raise RecommendationError(f"there is no result{which}; see what the job has found")
    return tuple(rows.values())


def environment_text(environment: Mapping[str, str]) -> str:
    """Variables as a shell writes them."""
    return " ".join(f"{name}={value}" for name, value in sorted(environment.items()))


def _load(test: LoadTest, instance_types: tuple[str, ...]) -> dict[str, Any]:
    """The part of an Advanced job's `InputConfig` that a Default job does not have."""
    ranges = [{"Name": name, "Value": list(values)} for name, values in sorted(test.environment.items())]
    varied = {"EnvironmentParameterRanges": {"CategoricalParameterRanges": ranges}} if ranges else {}
    phase = {
        "InitialNumberOfUsers": test.initial_users,
        "SpawnRate": test.new_users_per_minute,
        "DurationInSeconds": test.duration_s,
    }
    return {
        "JobDurationInSeconds": test.job_duration_s,
        "TrafficPattern": {"TrafficType": "PHASES", "Phases": [phase]},
        "ResourceLimit": {
            "MaxNumberOfTests": _count_tests(instance_types, test),
            "MaxParallelOfTests": test.parallel_tests,
        },
        "EndpointConfigurations": [{"InstanceType": name, **varied} for name in instance_types],
    }


def _count_tests(instance_types: tuple[str, ...], test: LoadTest) -> int:
    return len(instance_types) * math.prod(len(values) for values in test.environment.values())


def _recommendation(result: Mapping[str, Any]) -> Recommendation:
    where, metrics = result["EndpointConfiguration"], result.get("Metrics", {})
    name = where.get("InstanceType", "a serverless endpoint")
    missing = [each for each in ("MaxInvocations", "ModelLatency", "CostPerHour") if not metrics.get(each)]
    if missing:
        raise RecommendationError(f"{name} has a result without {', '.join(missing)}; run the job again")
    if metrics["ModelLatency"] > _MAX_LATENCY_MS:
        raise RecommendationError(
            f"{name} has a ModelLatency of {metrics['ModelLatency']}: over the 60,000 ms after which SageMaker gives "
            "an invocation up, so it is no milliseconds; see the endpoint's metrics in CloudWatch"
        )
    parameters = result["ModelConfiguration"].get("EnvironmentParameters", [])
    return Recommendation(
        id=result.get("RecommendationId", ""),
        instance_type=name,
        environment={each["Key"]: each["Value"] for each in parameters},
        instance_count=where["InitialInstanceCount"],
        max_invocations_per_minute_per_instance=InstanceRate(metrics["MaxInvocations"]),
        model_latency_ms=metrics["ModelLatency"],
        # A price has four decimals; the API has it as a float of 32 bits.
        price_usd_per_hour=round(metrics["CostPerHour"], 4),
    )


def _measurement(found: Recommendation, variant: str) -> Measurement:
    if found.instance_type not in INSTANCE_TYPES:
        raise RecommendationError(f"{found.instance_type} has no T4: nothing here is served on it")
    has = INSTANCE_TYPES[found.instance_type]
    return Measurement(
        variant=variant,
        instance_type=found.instance_type,
        vcpus=has.vcpus,
        gpus=has.gpus,
        price_usd_per_hour=found.price_usd_per_hour,
        initial_instance_count=found.instance_count,
        max_invocations_per_minute_per_instance=found.max_invocations_per_minute_per_instance,
        model_latency_ms=found.model_latency_ms,
        cost_usd_per_hour=round(found.instance_count * found.price_usd_per_hour, 4),
    )


def _in_range(what: str, given: int, low: int, high: int | None = None) -> None:
    if given < low or (high is not None and given > high):
        bounds = f"at least {low}" if high is None else f"{low} to {high}"
        raise RecommendationError(f"{what}: {given} is out of range; {bounds}")
