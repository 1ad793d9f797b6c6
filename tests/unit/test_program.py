"""The whole program, for every stack file."""

import copy
import json
import re
from typing import Any

import pulumi
import pytest
from program import STACKS, Recorder, RunProgram, stack_config

from model_repo.build import ModelArtifact

DYNAMIC = "pulumi-python:dynamic/triton-stack"
REPOSITORY = f"{DYNAMIC}:ModelRepository"


@pytest.mark.parametrize("stack", STACKS)
def test_every_stack_deploys_both_targets(stack: str, run_program: RunProgram, recorder: Recorder) -> None:
    run_program(stack, stack_config(stack))
    regions = stack_config(stack)["triton-stack:gke"]["regions"]
    assert len(recorder.of_type("aws:sagemaker/endpoint:Endpoint")) == 1
    assert len(recorder.of_type("kubernetes:apps/v1:Deployment")) == len(regions)


@pytest.mark.parametrize("stack", STACKS)
def test_every_name_begins_with_the_stack_s(stack: str, run_program: RunProgram, recorder: Recorder) -> None:
    run_program(stack, stack_config(stack))
    loose = [
        r.name
        for r in recorder.resources
        if not r.name.startswith(f"triton-{stack}") and r.typ != "pulumi:pulumi:Stack"
    ]
    assert loose == []


def test_no_name_depends_on_when_or_where_it_runs(run_program: RunProgram, recorder: Recorder) -> None:
    run_program("prod", stack_config("prod"))
    first = [(r.typ, r.name, json.dumps(r.inputs, sort_keys=True, default=repr)) for r in recorder.resources]
    recorder.resources.clear()
    run_program("prod", stack_config("prod"))
    again = [(r.typ, r.name, json.dumps(r.inputs, sort_keys=True, default=repr)) for r in recorder.resources]
    assert sorted(n[:2] for n in first) == sorted(n[:2] for n in again)
    assert not [name for _, name, _ in first if re.search(r"20\d\d-?\d\d", name)]


def test_a_cluster_of_ones_own_gets_no_network_cluster_or_identity(run_program: RunProgram, recorder: Recorder) -> None:
    run_program("local", stack_config("local"))
    made = {r.typ for r in recorder.resources if r.typ.startswith("gcp:")}
    assert made == {"gcp:storage/bucket:Bucket"}


@pytest.mark.parametrize(("off", "gone"), [("sagemaker", "aws:"), ("gke", "kubernetes:")])
def test_a_target_that_is_off_is_not_there(off: str, gone: str, run_program: RunProgram, recorder: Recorder) -> None:
    config = stack_config("local")
    config[f"triton-stack:{off}"]["enabled"] = False
    run_program("local", config)
    assert not [r.name for r in recorder.resources if r.typ.startswith(gone)]


def test_a_region_more_leaves_the_other_untouched(run_program: RunProgram, recorder: Recorder) -> None:
    config = stack_config("prod")
    run_program("prod", config)
    before = {r.name for r in recorder.resources}
    recorder.resources.clear()
    more = copy.deepcopy(config)
    more["triton-stack:gke"]["regions"].append("asia-east1")
    run_program("prod", more)
    added = {r.name for r in recorder.resources} - before
    assert before <= {r.name for r in recorder.resources}
    assert added
    assert all("asia-east1" in name for name in added)


def test_both_targets_serve_one_digest(run_program: RunProgram, recorder: Recorder, artifact: ModelArtifact) -> None:
    run_program("local", stack_config("local"))
    model = recorder.one("aws:sagemaker/model:Model").inputs["primaryContainer"]
    (source,) = model["modelDataSource"]["s3DataSources"]
    assert source["s3Uri"].endswith(f"/models/bert-small/{artifact.digest}/")
    container = recorder.one("kubernetes:apps/v1:Deployment").inputs["spec"]["template"]["spec"]["containers"][0]
    (repository,) = [a for a in container["args"] if a.startswith("--model-repository=")]
    assert repository.endswith(f"/models/bert-small/{artifact.digest}")


def test_a_digest_in_the_settings_is_served_without_upload(run_program: RunProgram, recorder: Recorder) -> None:
    run_program("prod", stack_config("prod"))
    digest = stack_config("prod")["triton-stack:model"]["digest"]
    assert digest in json.dumps(recorder.one("aws:sagemaker/model:Model").inputs, default=str)
    assert not recorder.of_type(REPOSITORY)


def test_what_was_built_here_is_published_to_both_stores(
    run_program: RunProgram, recorder: Recorder, artifact: ModelArtifact
) -> None:
    run_program("local", stack_config("local"))
    published = [each.inputs for each in recorder.of_type(REPOSITORY)]
    assert sorted(each["store"].partition(":")[0] for each in published) == ["gs", "s3"]
    assert {each["digest"] for each in published} == {artifact.digest}


@pytest.mark.parametrize(("mode", "scaled"), [("production", 2), ("shadow", 1)])
def test_a_challenger_in_production_is_scaled_and_one_in_the_shadow_is_not(
    mode: str, scaled: int, run_program: RunProgram, recorder: Recorder
) -> None:
    config = stack_config("dev")
    config["triton-stack:sagemaker"]["challenger"] = {"digest": "0" * 64, "mode": mode, "percent": 30}
    run_program("dev", config)
    assert len(recorder.of_type("aws:sagemaker/model:Model")) == 2
    assert len(recorder.of_type("aws:appautoscaling/target:Target")) == scaled
    configured = recorder.one("aws:sagemaker/endpointConfiguration:EndpointConfiguration").inputs
    weights = [each["initialVariantWeight"] for each in configured["productionVariants"]]
    assert weights == ([0.7, 0.3] if mode == "production" else [1.0])


def test_what_is_measured_is_the_endpoint_s_model_under_the_stack_s_objective_and_traffic(
    run_program: RunProgram, recorder: Recorder
) -> None:
    config = stack_config("dev")
    role = "arn:aws:iam::111122223333:role/recommender"
    config["triton-stack:sagemaker"]["recommendation"] = {"role_arn": role, "instance_types": ["ml.g4dn.xlarge"]}
    run_program("dev", config)
    asked = recorder.one(f"{DYNAMIC}:Recommendation").inputs
    load = json.loads(asked["test"])["load_test"]
    assert (asked["role_arn"], asked["model_name"]) == (role, "triton-dev-model")
    assert (load["max_latency_p95_ms"], load["max_invocations_per_minute_of_endpoint"]) == (500, 2400)


def test_one_key_encrypts_the_store_and_is_for_the_endpoint_s_and_the_engine_s_roles_alone(
    run_program: RunProgram, recorder: Recorder
) -> None:
    key = "arn:aws:kms:us-east-1:111122223333:key/0a1b2c3d"
    config = to_compile("sagemaker")
    config["triton-stack:sagemaker"]["kms_key_arn"] = key
    run_program("dev", config)
    holders = {each.name for each in recorder.resources if key in json.dumps(each.inputs, default=repr)}
    assert holders == {"triton-dev-models-encryption", "triton-dev-endpoint-policy", "triton-dev-engine-policy"}


def to_compile(*targets: str) -> dict[str, Any]:
    """The dev stack without a digest, on some of the targets."""
    config = stack_config("dev")
    del config["triton-stack:model"]["digest"]
    for target in ("sagemaker", "gke"):
        config[f"triton-stack:{target}"]["enabled"] = target in targets
    return config


def test_an_engine_is_built_by_sagemaker_and_copied_to_cloud_storage(
    run_program: RunProgram, recorder: Recorder, artifact: ModelArtifact
) -> None:
    run_program("dev", to_compile("sagemaker", "gke"))
    source, build = recorder.one(REPOSITORY).inputs, recorder.one(f"{DYNAMIC}:EngineBuild").inputs
    assert source["prefix"] == f"sources/{artifact.digest}"
    assert build["source_uri"] == f"{source['store']}/{source['prefix']}"
    copy = recorder.one(f"{DYNAMIC}:ModelCopy").inputs
    assert (copy["source"], copy["store"].partition(":")[0]) == (source["store"], "gs")
    assert not recorder.of_type("kubernetes:batch/v1:Job")


@pytest.mark.parametrize(
    ("stack", "config"),
    [
        *((stack, stack_config(stack)) for stack in STACKS),
        ("dev", to_compile("sagemaker", "gke")),
        ("dev", to_compile("gke")),
    ],
)
def test_no_two_resources_of_a_type_have_the_same_name(
    stack: str, config: dict[str, Any], run_program: RunProgram, recorder: Recorder
) -> None:
    run_program(stack, config)
    names = [(each.typ, each.name) for each in recorder.resources]
    assert len(names) == len(set(names))


def test_without_sagemaker_an_engine_is_built_on_a_t4_node_of_the_first_region(
    run_program: RunProgram, recorder: Recorder
) -> None:
    run_program("dev", to_compile("gke"))
    assert recorder.one(REPOSITORY).inputs["store"].startswith("gs://")
    (step, _) = recorder.one("kubernetes:batch/v1:Job").inputs["spec"]["template"]["spec"]["initContainers"]
    assert step["name"] == "fetch"
    roles = {each.inputs["role"] for each in recorder.of_type("gcp:storage/bucketIAMMember:BucketIAMMember")}
    assert "roles/storage.objectUser" in roles
    assert not recorder.of_type(f"{DYNAMIC}:EngineBuild")


def test_a_wrong_setting_registers_nothing(run_program: RunProgram, recorder: Recorder) -> None:
    config = stack_config("local")
    config["triton-stack:sagemaker"]["instance_type"] = "ml.g4dn.3xlarge"
    with pytest.raises(pulumi.RunError, match=r"^triton-stack:sagemaker.instance_type: \"ml.g4dn.3xlarge\" is not"):
        run_program("local", config)
    assert recorder.resources == []


def test_a_fleet_that_breaks_the_slo_registers_nothing(run_program: RunProgram, recorder: Recorder) -> None:
    config = stack_config("local")
    config["triton-stack:slo"]["latency_ms"] = 300
    with pytest.raises(pulumi.RunError) as refused:
        run_program("local", config)
    assert [line.partition(":")[2].partition(":")[0] for line in str(refused.value).splitlines()] == [
        "sagemaker.instance_type",
        "gke.machine_type",
    ]
    assert recorder.resources == []
