"""What a stack file may say, and what is answered when it says something else."""

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import STACKS, as_handed_to_a_program, stack_config

from stacks.fleet import plan_fleet
from stacks.settings import SettingsError, read_settings


def errors_of(config: dict[str, Any]) -> list[str]:
    try:
        plan_fleet(read_settings(as_handed_to_a_program(config)))
    except SettingsError as error:
        return str(error).splitlines()
    return []


def changed(section: str, key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(stack_config("local"))
    config[f"triton-stack:{section}"][key] = value
    return config


def floor(**changes: Any) -> dict[str, Any]:
    return {"schedule": "cron(0 7 ? * MON-FRI *)", "timezone": "Europe/Berlin", "rps": 50, **changes}


@pytest.mark.parametrize("stack", STACKS)
def test_every_stack_file_is_right(stack: str) -> None:
    assert errors_of(stack_config(stack)) == []


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        (
            "sagemaker",
            "instance_type",
            "ml.g4dn.3xlarge",
            '"ml.g4dn.3xlarge" is not a g4dn type; one of ml.g4dn.xlarge, ',
        ),
        (
            "sagemaker",
            "instance_type",
            "ml.g4dn.4xlarge",
            '"ml.g4dn.4xlarge" was not measured with variant "trt-db"; one',
        ),
        ("sagemaker", "enabled", "yes", '"yes" should be a valid boolean; write e.g. true'),
        ("model", "name", "gpt-5", '"gpt-5" is not a model of model_repo/models; one of bert-large, '),
        ("model", "variant", "trt", '"trt" is not a variant; one of pt-base, '),
        ("model", "digest", "latest", "\"latest\" should match pattern '^[0-9a-f]{64}$'; write e.g. a digest"),
        ("model", "compile", "never", "missing, and compile is never; name the digest"),
        ("slo", "latency_ms", -1, "-1 should be greater than 0; write e.g. 500"),
        ("slo", "latency_ms", math.nan, "NaN should be a finite number; write e.g. 500"),
        ("slo", "latency_ms", math.inf, "Infinity should be a finite number; write e.g. 500"),
        ("slo", "latency_ms", "500", '"500" should be a valid number; write e.g. 500'),
        ("slo", "percentile", 50, "50 should be greater than 50; write e.g. 95"),
        ("slo", "percentile", 100, "100 should be less than 100; write e.g. 95"),
        ("slo", "percentile", 99.999, "99.999 has more decimals than CloudWatch takes, which are two; write e.g. 99.9"),
        ("slo", "percentile", "p95", '"p95" should be a valid number; write e.g. 95'),
        ("slo", "availability", 1, "1 should be less than 1; write e.g. 0.999"),
        ("slo", "availability", 99.9, "99.9 should be less than 1; write e.g. 0.999"),
        ("slo", "availability", 0.001, "0.001 should be greater than or equal to 0.9; write e.g. 0.999"),
        ("traffic", "base_rps", 61, "61 is over peak_rps 60; write at most 60"),
        (
            "sagemaker",
            "scaling_metric",
            "cpu",
            "\"cpu\" should be 'invocations' or 'concurrency'; write e.g. invocations",
        ),
        ("traffic", "profile", [floor(rps=61)], "61 is outside of base_rps 40 and peak_rps 60; write a rate between"),
        ("traffic", "profile", [floor(rps=39)], "39 is outside of base_rps 40"),
        ("traffic", "profile", [floor(), floor(rps=41)], "names a moment twice; write each schedule once"),
        ("capacity", "headroom", 0.9, "0.9 should be greater than or equal to 1; write e.g. 1.2"),
        (
            "capacity",
            "measurements",
            "../x.csv",
            '"../x.csv" is not a file of capacity/measurements; one of bert-large-g4dn.csv',
        ),
        ("gke", "regions", ["moon-1"], '["moon-1"] holds "moon-1", which has no T4; any of asia-east1, '),
        ("gke", "regions", ["us-central1"] * 2, "names a region twice"),
        ("gke", "regions", ["us-central1", "us-east1"], "a kubeconfig names one cluster"),
        ("gke", "authorized_networks", ["0.0.0.0/0"], "opens the control planes to everyone"),
        ("gke", "authorized_networks", ["10.0.0.1/8"], "holds no CIDR block"),
        ("gke", "grpc_port", 8000, "8000 is http_port too; write another, e.g. 8001"),
        (
            "triton",
            "release",
            "20.01",
            '"20.01" is not a release of model_repo/compatibility.yaml; one of 23.12, ',
        ),
    ],
)
def test_a_wrong_value_is_one_line_with_what_works(section: str, key: str, value: Any, said: str) -> None:
    (line,) = errors_of(changed(section, key, value))
    path, _, rest = line.removeprefix("triton-stack:").partition(": ")
    assert path == ("model.digest" if value == "never" else f"{section}.{key}")
    assert said in rest


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "deployment",
            {"strategy": "canary", "wait_s": 0, "step_percent": 51},
            "deployment.step_percent: 51 is no step of canary; write 1 to 50, e.g. 10",
        ),
        (
            "deployment",
            {"strategy": "linear", "wait_s": 0},
            "deployment.step_percent: null is no step of linear; write 10 to 50, e.g. 10",
        ),
        (
            "deployment",
            {"strategy": "all-at-once", "wait_s": 0, "step_percent": 5},
            "deployment.step_percent: all-at-once has no steps; leave it out, or write canary",
        ),
        ("deployment", {"strategy": "canary"}, "deployment.wait_s: missing; write e.g. 300"),
        (
            "deployment",
            {"strategy": "canary", "step_percent": 10, "wait": 5},
            "deployment.wait: unknown key; known here: strategy, wait_s, step_percent",
        ),
        (
            "challenger",
            {"digest": "0" * 64, "mode": "production", "percent": 100},
            "challenger.percent: 100 leaves nothing to the model itself; write 1 to 99, or set model.digest",
        ),
        (
            "vpc",
            {"subnet_ids": ["vpc-1"], "security_group_ids": ["sg-1"]},
            'vpc.subnet_ids.0: "vpc-1" should match pattern \'^subnet-[0-9a-f]+$\'; write e.g. ["subnet-0abc1234"]',
        ),
        (
            "recommendation",
            {"role_arn": "arn:aws:iam::111122223333:role/a", "instance_types": ["ml.g5.xlarge"]},
            'recommendation.instance_types: ["ml.g5.xlarge"] holds "ml.g5.xlarge", which is not a g4dn type; any of ',
        ),
    ],
)
def test_a_wrong_option_of_the_endpoint_is_one_line_with_its_place(key: str, value: Any, said: str) -> None:
    assert [line for line in errors_of(changed("sagemaker", key, value)) if f"triton-stack:sagemaker.{said}" in line]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("schedule", "rate(1 day)", '"rate(1 day)" is not cron(<minute> <hour> '),
        ("schedule", "cron(0 7 * * MON-FRI)", "write e.g. cron(0 7 ? * MON-FRI *)"),
        ("schedule", "cron(0 7 * * MON-FRI *)", "with ? for one of the days"),
        ("schedule", "cron(0 7 ? * ? *)", "with ? for one of the days"),
        ("schedule", "cron(0 7 ? * MON-FRI *) ", "write e.g. cron(0 7 ? * MON-FRI *)"),
        ("timezone", "Europe/Bonn", '"Europe/Bonn" is not an IANA time zone; write e.g. Europe/Berlin'),
        ("rps", "50", '"50" should be a valid number; write e.g. 200'),
        ("rate", 50, "unknown key; known here: schedule, timezone, rps"),
    ],
)
def test_a_wrong_entry_of_the_profile_is_one_line_with_its_place(key: str, value: Any, said: str) -> None:
    (line,) = errors_of(changed("traffic", "profile", [floor(), {**floor(timezone="Etc/UTC"), key: value}]))
    path, _, rest = line.removeprefix("triton-stack:").partition(": ")
    assert path == f"traffic.profile.1.{key}"
    assert said in rest


def test_an_unknown_key_names_the_known_ones() -> None:
    assert errors_of(changed("slo", "latency", 5)) == [
        "triton-stack:slo.latency: unknown key; known here: latency_ms, percentile, availability"
    ]


def test_a_missing_section_names_its_keys() -> None:
    config = stack_config("local")
    del config["triton-stack:traffic"]
    assert errors_of(config) == ["triton-stack:traffic: missing; write its keys: base_rps, peak_rps, profile"]


def test_two_errors_are_two_lines() -> None:
    config = changed("slo", "latency_ms", 0)
    config["triton-stack:traffic"]["peak_rps"] = "many"
    assert len(errors_of(config)) == 2


def test_both_targets_off_is_an_error() -> None:
    config = changed("gke", "enabled", value=False)
    config["triton-stack:sagemaker"]["enabled"] = False
    (line,) = errors_of(config)
    assert "both false" in line


def test_a_region_without_an_image_is_an_error() -> None:
    config = stack_config("local")
    config["aws:region"] = "mars-1"
    (line,) = errors_of(config)
    assert line.startswith('aws:region: "mars-1" has no SageMaker Triton image; one of ')


SECTIONS = sorted(key for key in stack_config("local") if key.startswith("triton-stack:"))
KEYS = [(section, key) for section in SECTIONS for key in stack_config("local")[section]]
OPTIONS = [("triton-stack:traffic", "profile"), ("triton-stack:sagemaker", "scaling_metric")]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(place=st.sampled_from(KEYS + OPTIONS), value=ANYTHING)
def test_any_value_anywhere_is_right_or_one_line_an_error(place: tuple[str, str], value: Any) -> None:
    section, key = place
    config = copy.deepcopy(stack_config("local"))
    config[section][key] = value
    assert_lines(errors_of(config))


@given(key=st.sampled_from(sorted(floor())), value=ANYTHING)
def test_any_value_in_the_profile_is_right_or_one_line_an_error(key: str, value: Any) -> None:
    assert_lines(errors_of(changed("traffic", "profile", [floor(**{key: value})])))


@given(section=st.sampled_from(SECTIONS), value=ANYTHING)
def test_any_section_is_right_or_one_line_an_error(section: str, value: Any) -> None:
    config = copy.deepcopy(stack_config("local"))
    config[section] = value
    assert_lines(errors_of(config))


@given(place=st.sampled_from(KEYS), name=st.text(alphabet="abc_.:", min_size=1, max_size=12))
def test_any_misspelt_key_is_an_error_that_names_it(place: tuple[str, str], name: str) -> None:
    section, key = place
    config = copy.deepcopy(stack_config("local"))
    config[section][f"{key}{name}"] = config[section].pop(key)
    lines = errors_of(config)
    assert_lines(lines)
    assert any(f"{section}.{key}{name}: unknown key" in line for line in lines)


def assert_lines(lines: list[str]) -> None:
    """Each line starts with a path of the stack file and says more than that."""
    for line in lines:
        path, _, rest = line.partition(": ")
        assert path.startswith("triton-stack:"), line
        assert rest, line
        assert "Traceback" not in line
