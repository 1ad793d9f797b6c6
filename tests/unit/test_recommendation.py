"""Inference Recommender, without it: what is asked is what its API takes, what it answers is read in its units."""

import re
from dataclasses import replace
from typing import Any

import boto3
import pytest
from botocore.validate import ParamValidator
from recommender_results import result

from capacity.measurements import SHIPPED_FOLDER, find_measurement, read_measurements
from capacity.recommendation import (
    EndpointRate,
    LoadTest,
    RecommendationError,
    RecommendationRequest,
    job_parameters,
    job_prefix,
    measurements_of,
    recommendations_of,
)
from model_repo.spec import load_spec, spec_names

TEST = LoadTest(max_invocations_per_minute_of_endpoint=EndpointRate(30_000), max_latency_p95_ms=500)
REQUEST = RecommendationRequest(
    spec=load_spec("bert-large"),
    model="triton-dev-model-1f2e3d4",
    payload_url="s3://models/payloads/0.tar.gz",
    instance_types=("ml.g4dn.xlarge", "ml.g4dn.2xlarge", "ml.g4dn.12xlarge"),
    load_test=TEST,
)
VARIED = replace(TEST, environment={"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": ("trt-db", "trt-ig-db")}, duration_s=600)
PACKAGE = "arn:aws:sagemaker:us-east-1:123456789012:model-package/bert/1"


@pytest.fixture(scope="module")
def api() -> Any:
    """SageMaker's own model of CreateInferenceRecommendationsJob."""
    session: Any = boto3.Session("local", "local", region_name="us-east-1")
    model = session.client("sagemaker").meta.service_model
    return model.operation_model("CreateInferenceRecommendationsJob").input_shape


def description(*results: dict[str, Any]) -> dict[str, Any]:
    return {"Status": "COMPLETED", "InferenceRecommendations": list(results)}


# --- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", [TEST, VARIED, None])
@pytest.mark.parametrize("name", spec_names())
def test_the_api_takes_every_request(name: str, test: LoadTest | None, api: Any) -> None:
    request = replace(REQUEST, spec=load_spec(name), load_test=test)
    job = f"{job_prefix(request)}-1"
    parameters = {"JobName": job, "RoleArn": "arn:aws:iam::123456789012:role/r", **job_parameters(request)}
    validator: Any = ParamValidator()
    assert validator.validate(parameters, api).generate_report() == ""
    assert re.fullmatch(api.members["JobName"].metadata["pattern"], job)
    container = api.members["InputConfig"].members["ContainerConfig"]
    given: dict[str, Any] = job_parameters(request)["InputConfig"]["ContainerConfig"]
    # The shapes are plain strings: what they take stands in their documentation.
    for member in ("Domain", "Task", "Framework"):
        assert given[member] in re.findall(r"[A-Z_-]{3,}", container.members[member].documentation)
    version = container.members["FrameworkVersion"].metadata["pattern"]
    assert re.fullmatch(version, given["FrameworkVersion"])


def test_the_load_is_the_published_experiment_s() -> None:
    parameters = job_parameters(REQUEST)
    given = parameters["InputConfig"]
    assert parameters["JobType"] == "Advanced"
    assert given["TrafficPattern"] == {
        "TrafficType": "PHASES",
        "Phases": [{"InitialNumberOfUsers": 2, "SpawnRate": 2, "DurationInSeconds": 1500}],
    }
    assert (given["ContainerConfig"]["Domain"], given["ContainerConfig"]["Task"]) == (
        "NATURAL_LANGUAGE_PROCESSING",
        "FILL_MASK",
    )
    assert [each["InstanceType"] for each in given["EndpointConfigurations"]] == list(REQUEST.instance_types)
    assert parameters["StoppingConditions"] == {
        "MaxInvocations": 30_000,
        "ModelLatencyThresholds": [{"Percentile": "P95", "ValueInMilliseconds": 500}],
    }


def test_every_combination_of_type_and_value_is_one_of_the_job_s_tests() -> None:
    given = job_parameters(replace(REQUEST, load_test=VARIED))["InputConfig"]
    assert given["ResourceLimit"] == {"MaxNumberOfTests": 6, "MaxParallelOfTests": 1}
    variable = {"Name": "SAGEMAKER_TRITON_DEFAULT_MODEL_NAME", "Value": ["trt-db", "trt-ig-db"]}
    for each in given["EndpointConfigurations"]:
        assert each["EnvironmentParameterRanges"] == {"CategoricalParameterRanges": [variable]}


def test_a_default_job_has_no_traffic_of_ours_and_wants_no_serverless_endpoint() -> None:
    parameters = job_parameters(replace(REQUEST, load_test=None, model=PACKAGE))
    assert (parameters["JobType"], "StoppingConditions" in parameters) == ("Default", False)
    assert set(parameters["InputConfig"]) == {"ModelPackageVersionArn", "ContainerConfig"}
    assert parameters["InputConfig"]["ContainerConfig"]["SupportedEndpointType"] == "RealTime"


def test_the_same_request_has_the_same_name_and_whatever_is_measured_otherwise_another() -> None:
    assert job_prefix(replace(REQUEST)) == job_prefix(REQUEST)
    others = [
        replace(REQUEST, model="another"),
        replace(REQUEST, payload_url="s3://models/payloads/1.tar.gz"),
        replace(REQUEST, instance_types=("ml.g4dn.xlarge",)),
        replace(REQUEST, load_test=replace(TEST, new_users_per_minute=3)),
        replace(REQUEST, load_test=None),
    ]
    assert len({job_prefix(each) for each in [REQUEST, *others]}) == 6


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"initial_users": 4}, "initial_users: 4 is out of range; 1 to 3"),
        ({"new_users_per_minute": 4}, "new_users_per_minute: 4 is out of range; 0 to 3"),
        ({"duration_s": 119}, "duration_s: 119 is out of range; 120 to 3600"),
        ({"job_duration_s": 18_001}, "job_duration_s: 18001 is out of range; 1500 to 18000"),
        ({"job_duration_s": 1499}, "job_duration_s: 1499 is out of range; 1500 to 18000"),
        ({"max_latency_p95_ms": 0}, "max_latency_p95_ms: 0 is out of range; 1 to 60000"),
        ({"max_invocations_per_minute_of_endpoint": 0}, "of_endpoint: 0 is out of range; at least 1"),
        ({"parallel_tests": 0}, "parallel_tests: 0 is out of range; at least 1"),
        (
            {"environment": {"A": ("1", "2", "3", "4")}},
            "environment: A: the number of values: 4 is out of range; 1 to 3",
        ),
        ({"environment": dict.fromkeys("ABCDEF", ("1",))}, "the number of variables: 6 is out of range; 0 to 5"),
    ],
)
def test_a_load_beyond_the_api_s_limits_is_refused_in_a_line(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(RecommendationError) as caught:
        replace(TEST, **changed)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("types", "test", "said"),
    [
        ((), TEST, "instance_types: their number: 0 is out of range; 1 to 10"),
        (("ml.g4dn.xlarge",) * 2, TEST, "the number of ml.g4dn.xlarge: 2 is out of range; 1 to 1"),
        (("ml.p3.2xlarge",), None, '"ml.p3.2xlarge" has no T4; one of ml.g4dn.xlarge'),
        (REQUEST.instance_types, replace(TEST, job_duration_s=4499), "4499 is less than the 4500 s that 3 tests"),
        (
            REQUEST.instance_types,
            replace(VARIED, environment={"A": ("1", "2"), "B": ("1", "2")}),
            ": 12 is out of range",
        ),
    ],
)
def test_types_that_the_job_cannot_measure_are_refused(
    types: tuple[str, ...], test: LoadTest | None, said: str
) -> None:
    with pytest.raises(RecommendationError, match=re.escape(said)):
        replace(REQUEST, instance_types=types, load_test=test)


def test_tests_that_run_side_by_side_need_less_time() -> None:
    replace(REQUEST, load_test=replace(TEST, job_duration_s=3000, parallel_tests=2))


# --- what is answered -------------------------------------------------------------------------------------------------


def test_a_result_is_the_row_of_the_published_table() -> None:
    """Per instance: were its 3,192 taken for the endpoint's, the count would be of another traffic."""
    (row,) = measurements_of(recommendations_of(description(result())), variant="trt-db-ig", environment={})
    shipped = read_measurements(SHIPPED_FOLDER / "bert-large-g4dn.csv")
    assert row == find_measurement(shipped, variant="trt-ig-db", instance_type="ml.g4dn.xlarge")


def test_an_endpoint_s_rate_and_an_instance_s_are_not_mixed_up() -> None:
    asked = job_parameters(REQUEST)["StoppingConditions"]["MaxInvocations"]
    (found,) = recommendations_of(description(result()))
    per_instance = found.max_invocations_per_minute_per_instance
    assert asked > per_instance
    assert found.instance_count == -(-asked // per_instance)


def test_a_latency_in_microseconds_is_refused() -> None:
    with pytest.raises(RecommendationError, match="ModelLatency of 263596: over the 60,000 ms"):
        recommendations_of(description(result(ModelLatency=263_596)))


@pytest.mark.parametrize("metric", ["MaxInvocations", "ModelLatency", "CostPerHour"])
def test_a_result_without_a_metric_is_refused(metric: str) -> None:
    without = result()
    del without["Metrics"][metric]
    with pytest.raises(RecommendationError, match=rf"ml\.g4dn\.xlarge has a result without {metric}"):
        recommendations_of(description(without))


def test_of_several_environments_the_named_one_is_saved_and_none_is_chosen_for_the_user() -> None:
    key = "SAGEMAKER_TRITON_DEFAULT_MODEL_NAME"
    results = [
        result(instance_type, env={key: variant}, MaxInvocations=rate)
        for instance_type in ("ml.g4dn.xlarge", "ml.g4dn.2xlarge")
        for variant, rate in (("trt-db", 1000), ("trt-ig-db", 2000))
    ]
    found = recommendations_of(description(*results))
    rows = measurements_of(found, variant="trt-db", environment={key: "trt-db"})
    assert [row.max_invocations_per_minute_per_instance for row in rows] == [1000, 1000]
    with pytest.raises(RecommendationError, match=r"ml\.g4dn\.xlarge has several results"):
        measurements_of(found, variant="trt-db", environment={})
    with pytest.raises(RecommendationError, match=f'no result with "{key}=pt-db"'):
        measurements_of(found, variant="pt-db", environment={key: "pt-db"})


def test_a_type_without_a_t4_has_no_measurement() -> None:
    with pytest.raises(RecommendationError, match=r"ml\.c5\.xlarge has no T4"):
        measurements_of(recommendations_of(description(result("ml.c5.xlarge"))), variant="trt-db", environment={})
