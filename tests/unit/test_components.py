"""Every component alone, under mocks: what reaches the cloud of what it is given, and what it never does."""

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import pulumi
import pulumi.runtime
import pytest
from program import Recorder, Registered
from tiny_engine import order

import components
from capacity.autoscaling import ScheduledRate, endpoint_scaling
from capacity.planner import InstancePlan
from capacity.recommendation import EndpointRate, LoadTest, RecommendationError
from components.aws.deployment import Deployment
from components.aws.endpoint_alarms import EndpointAlarms
from components.aws.endpoint_role import EndpointRole
from components.aws.endpoint_scaling import EndpointScaling
from components.aws.engine_build import EngineBuild as SageMakerEngineBuild
from components.aws.model_store import ModelStore as S3ModelStore
from components.aws.recommendation import Recommendation
from components.aws.registered_model import RegisteredModel
from components.aws.triton_endpoint import TritonEndpoint
from components.copied_model import CopiedModel
from components.gcp.account_id import account_id
from components.gcp.bucket_account import READER_ROLES, WRITER_ROLES, BucketAccount
from components.gcp.gpu_cluster import GpuCluster
from components.gcp.model_store import ModelStore as GcsModelStore
from components.gcp.network import Network
from components.gcp.t4_zones import T4_ZONES
from components.kubernetes.engine_build import EngineBuild as KubernetesEngineBuild
from components.kubernetes.triton_deployment import TritonDeployment
from components.kubernetes.triton_scaling import TritonScaling
from components.published_model import PublishedModel
from model_repo.build import ModelArtifact
from model_repo.spec import load_spec
from observability.slo import Slo

Component = type[pulumi.ComponentResource]
Build = Callable[..., list[Registered]]

NAME = "unit"
PLAN = InstancePlan(
    variant="trt-db",
    instance_type="n1-standard-8",
    max_invocations_per_minute_per_instance=1335,
    model_latency_ms=499,
    safety_factor=0.7,
    base_rps=40,
    max_rps=150,
    min_count=2,
    count=5,
    max_count=7,
    scaling_target_per_minute=934.5,
    price_usd_per_hour=None,
    min_cost_usd_per_hour=None,
    cost_usd_per_hour=None,
    max_cost_usd_per_hour=None,
    formula="",
)
OTHER_PLAN = replace(
    PLAN,
    instance_type="n1-standard-4",
    max_invocations_per_minute_per_instance=20,
    min_count=3,
    count=6,
    max_count=9,
    scaling_target_per_minute=12.5,
)
SAGEMAKER_PLAN = replace(PLAN, instance_type="ml.g4dn.2xlarge")
MORNING = ScheduledRate(schedule="cron(0 7 ? * MON-FRI *)", timezone="Europe/Berlin", rps=100)
TOPIC = "arn:aws:sns:us-east-1:123456789012:on-call"
IMAGE = "785573368785.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tritonserver:25.09-py3"
KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
VPC = {"subnets": ["subnet-0a"], "security_group_ids": ["sg-0a"]}

CAPTURE = {"uri": "s3://a/captured", "percent": 10, "kms_key_arn": KEY}
CHALLENGER = {"model_uri": "s3://c", "mode": "shadow", "percent": 10, "plan": SAGEMAKER_PLAN}

LOAD_TEST = LoadTest(max_invocations_per_minute_of_endpoint=EndpointRate(30_000), max_latency_p95_ms=500)

# Each component, and for each of its arguments a value and another one.
ARGUMENTS: dict[Component, dict[str, tuple[Any, Any]]] = {
    EndpointAlarms: {
        "endpoint_name": ("triton-a", "triton-b"),
        "production_variant": ("triton", "other"),
        "slo": (Slo(latency_ms=500), Slo(latency_ms=600)),
        "plan": (SAGEMAKER_PLAN, replace(SAGEMAKER_PLAN, scaling_target_per_minute=12.5)),
        "region": ("us-east-1", "eu-west-1"),
        "topic_arn": (TOPIC, f"{TOPIC}-2"),
    },
    EndpointRole: {
        "endpoint": ("triton-a", "triton-b"),
        "bucket_arn": ("arn:aws:s3:::a", "arn:aws:s3:::b"),
        "prefixes": (["models/bert/0"], ["models/bert/0", "models/bert/1"]),
        "image": (IMAGE, IMAGE.replace("us-east-1", "eu-west-1")),
        "rollback_alarms": (["errors"], ["errors", "latency"]),
        "captured_prefix": ("captured/a", "captured/b"),
        "kms_key_arn": (KEY, KEY.replace("1234abcd", "5678efab")),
        "vpc": (VPC, {**VPC, "subnets": ["subnet-0b"]}),
    },
    EndpointScaling: {
        "endpoint_name": ("a", "b"),
        "production_variant": ("triton", "other"),
        "policy": (endpoint_scaling(PLAN, profile=[MORNING]), endpoint_scaling(OTHER_PLAN)),
    },
    SageMakerEngineBuild: {
        "order": (order(), order("trt-base")),
        "bucket": ("a", "b"),
        "bucket_arn": ("arn:aws:s3:::a", "arn:aws:s3:::b"),
        "source_uri": ("s3://a", "s3://b"),
        "image": (IMAGE, IMAGE.replace("25.09", "24.09")),
        "region": ("us-east-1", "eu-west-1"),
        "kms_key_arn": (KEY, f"{KEY}0"),
    },
    S3ModelStore: {"kms_key_arn": (KEY, f"{KEY}0")},
    RegisteredModel: {
        "group": ("a", "b"),
        "region": ("us-east-1", "eu-west-1"),
        "digest": ("a", "b"),
        "variant": ("trt-db", "trt-base"),
        "model_uri": ("s3://a", "s3://b"),
        "image": (IMAGE, "other"),
        "environment": ({"KEY": "a"}, {"KEY": "b"}),
        "instance_type": ("ml.g4dn.xlarge", "ml.g4dn.2xlarge"),
    },
    Recommendation: {
        "spec": (load_spec("bert-small"), load_spec("resnet50")),
        "variant": ("trt-db", "trt-ig-db"),
        "model_name": ("a", "b"),
        "instance_types": (["ml.g4dn.xlarge"], ["ml.g4dn.xlarge", "ml.g4dn.12xlarge"]),
        "load_test": (LOAD_TEST, replace(LOAD_TEST, max_latency_p95_ms=200)),
        "bucket": ("models-a", "models-b"),
        "role_arn": ("arn:aws:iam::123456789012:role/a", "arn:aws:iam::123456789012:role/b"),
        "region": ("us-east-1", "eu-west-1"),
    },
    TritonEndpoint: {
        "region": ("us-east-1", "eu-west-1"),
        "endpoint_name": ("triton-a", "triton-b"),
        "model": ("bert", "resnet50"),
        "model_uri": ("s3://a", "s3://b"),
        "model_size_bytes": (10**9, 10**10),
        "role_arn": ("arn:aws:iam::123456789012:role/a", "arn:aws:iam::123456789012:role/b"),
        "image": (IMAGE, "other"),
        "inference_ami_version": ("al2-ami-sagemaker-inference-gpu-2", "al2-ami-sagemaker-inference-gpu-3-1"),
        "plan": (SAGEMAKER_PLAN, replace(SAGEMAKER_PLAN, count=6)),
        "deployment": (Deployment("all-at-once", wait_s=0), Deployment("canary", wait_s=60, step_percent=10)),
        "rollback_alarms": (["slow"], ["slow", "failing"]),
        "vpc": (VPC, {**VPC, "subnets": ["subnet-0b"]}),
        "capture": (CAPTURE, {**CAPTURE, "percent": 20}),
        "challenger": (CHALLENGER, {**CHALLENGER, "mode": "production"}),
    },
    GpuCluster: {
        "project": ("a", "b"),
        "region": ("us-central1", "europe-west4"),
        "network": ("a", "b"),
        "subnetwork": ("a", "b"),
        "authorized_networks": (["203.0.113.0/24"], []),
        "plan": (PLAN, OTHER_PLAN),
    },
    BucketAccount: {
        "roles": (READER_ROLES, WRITER_ROLES),
        "project": ("a", "b"),
        "bucket": ("a", "b"),
        "namespace": ("a", "b"),
        "service_account": ("a", "b"),
    },
    GcsModelStore: {"location": ("us-central1", "europe-west4")},
    Network: {"region": ("us-central1", "europe-west4")},
    CopiedModel: {
        "source": ("s3://a", "s3://b"),
        "store": ("gs://a", "gs://b"),
        "model": ("bert", "resnet50"),
        "digest": ("a", "b"),
    },
    PublishedModel: {
        "store": ("s3://a", "gs://a"),
        "artifact": ("artifact", "other artifact"),
        "prefix": ("models/a", "sources/a"),
    },
    KubernetesEngineBuild: {
        "order": (order(), order("trt-base")),
        "namespace": ("a", "b"),
        "bucket": ("a", "b"),
        "image": ("a", "b"),
        "onnx_size_bytes": (1, 2**30),
        "google_service_account": ("a@local", "b@local"),
    },
    TritonDeployment: {
        "namespace": ("a", "b"),
        "model_uri": ("gs://a", "gs://b"),
        "image": ("a", "b"),
        "http_port": (8000, 80),
        "grpc_port": (8001, 81),
        "google_service_account": ("a@local", "b@local"),
    },
    TritonScaling: {"namespace": ("a", "b"), "deployment": ("a", "b"), "plan": (PLAN, OTHER_PLAN)},
}


def arguments_of(component: Component) -> type | None:
    """A component's TypedDict; None where it takes no arguments."""
    args = inspect.signature(component).parameters.get("args")
    return args.annotation if args else None


def argument_names(component: Component) -> list[str]:
    args = arguments_of(component)
    return sorted(args.__annotations__) if args else []


@pytest.fixture
def build(recorder: Recorder, artifact: ModelArtifact) -> Build:
    """Build one component with the first of its values, or those given instead; return what it registers.

    After the component come the names of arguments that are left out.
    """
    other = artifact.manifest.model_copy(update={"weights": "others"})
    artifacts = {"artifact": artifact, "other artifact": replace(artifact, manifest=other)}

    def build_one(component: Component, *left_out: str, **changed: Any) -> list[Registered]:
        args = {key: values[0] for key, values in ARGUMENTS[component].items() if key not in left_out} | changed
        if "artifact" in args:
            args["artifact"] = artifacts[args["artifact"]]
        recorder.resources.clear()
        pulumi.runtime.set_mocks(recorder, project="triton-stack", stack="unit", preview=False)

        @pulumi.runtime.test  # pyright: ignore[reportUnknownMemberType] - untyped in the SDK
        def program() -> None:
            cast("Callable[..., object]", component)(NAME, *([args] if arguments_of(component) else []))

        program()
        return [each for each in recorder.resources if not each.typ.startswith("triton-stack:")]

    return build_one


def inputs(registered: list[Registered], name: str) -> dict[str, Any]:
    (resource,) = [each for each in registered if each.name == f"{NAME}-{name}"]
    return resource.inputs


def as_json(registered: list[Registered]) -> list[str]:
    return sorted(json.dumps([r.typ, r.name, r.inputs], sort_keys=True, default=vars) for r in registered)


def urns(of: list[Registered]) -> list[str]:
    """URNs of resources; such a name holds the type of the parent."""
    monitor = cast("Any", pulumi.runtime.settings.get_monitor())
    known: Mapping[str, object] = monitor.resources
    names = {each.name for each in of}
    types = {each.typ for each in of}
    return [urn for urn in known if urn.split("::")[3] in names and urn.split("::")[2].split("$")[-1] in types]


# --- all of them ------------------------------------------------------------------------------------------------------


def test_every_component_is_tested_here() -> None:
    found: set[object] = set()
    for module in pkgutil.walk_packages(components.__path__, "components."):
        for _, each in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(each, pulumi.ComponentResource) and each.__module__ == module.name:
                found.add(each)
    assert found == set(ARGUMENTS)


@pytest.mark.parametrize(
    ("component", "key"), [(component, key) for component in ARGUMENTS for key in argument_names(component)]
)
def test_every_argument_reaches_a_resource(component: Component, key: str, build: Build) -> None:
    before = as_json(build(component))
    assert as_json(build(component, **{key: ARGUMENTS[component][key][1]})) != before


@pytest.mark.parametrize("component", ARGUMENTS)
def test_children_are_named_after_their_component_and_have_it_as_parent(component: Component, build: Build) -> None:
    registered = build(component)
    package = component.__module__.split(".")[1:-1]  # none: of either cloud
    own = f"triton-stack:{(package or ['index'])[0]}:{component.__name__}"
    assert registered
    assert {urn.split("::")[2].split("$")[0] for urn in urns(registered)} == {own}
    assert not [each.name for each in registered if not f"{each.name}-".startswith(f"{NAME}-")]


@pytest.mark.parametrize("component", ARGUMENTS)
def test_a_component_says_what_it_is_and_what_it_takes(component: Component) -> None:
    for each in filter(None, (component, arguments_of(component))):
        assert vars(each)["__doc__"]


# --- AWS --------------------------------------------------------------------------------------------------------------


def granted(registered: list[Registered]) -> dict[str, dict[str, Any]]:
    """Action → the statement that allows it; of several, the last."""
    statements: list[dict[str, Any]] = json.loads(inputs(registered, "policy")["policy"])["Statement"]
    assert {statement["Effect"] for statement in statements} == {"Allow"}
    return {
        action: statement
        for statement in statements
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }


def role_of(build: Build, *options: str) -> dict[str, dict[str, Any]]:
    """What a role may that has these options and no other."""
    every = ("rollback_alarms", "captured_prefix", "kms_key_arn", "vpc")
    return granted(build(EndpointRole, *(option for option in every if option not in options)))


def test_the_role_grants_its_prefixes_one_image_one_group_of_logs_and_nothing_to_everyone(build: Build) -> None:
    actions = role_of(build)
    assert sorted(actions) == [
        "cloudwatch:PutMetricData",
        "ecr:BatchCheckLayerAvailability",
        "ecr:BatchGetImage",
        "ecr:GetAuthorizationToken",
        "ecr:GetDownloadUrlForLayer",
        "logs:CreateLogGroup",
        "logs:CreateLogStream",
        "logs:DescribeLogStreams",
        "logs:PutLogEvents",
        "s3:GetObject",
        "s3:ListBucket",
    ]
    assert [action for action, statement in sorted(actions.items()) if statement["Resource"] == "*"] == [
        "cloudwatch:PutMetricData",
        "ecr:GetAuthorizationToken",
    ]
    repository = "arn:aws:ecr:us-east-1:785573368785:repository/sagemaker-tritonserver"
    assert actions["ecr:BatchGetImage"]["Resource"] == repository
    group = "arn:aws:logs:us-east-1:*:log-group:/aws/sagemaker/Endpoints/triton-a:*"
    assert actions["logs:PutLogEvents"]["Resource"] == group
    namespaces = actions["cloudwatch:PutMetricData"]["Condition"]["StringLike"]["cloudwatch:namespace"]
    assert namespaces == ["AWS/SageMaker", "/aws/sagemaker/*"]


def test_the_role_of_an_endpoint_with_two_digests_reads_and_lists_both_and_no_third(build: Build) -> None:
    actions = granted(build(EndpointRole, prefixes=["models/bert/0", "models/bert/1"]))
    reads = ["arn:aws:s3:::a/models/bert/0/*", "arn:aws:s3:::a/models/bert/1/*"]
    assert actions["s3:GetObject"]["Resource"] == reads
    assert actions["s3:ListBucket"]["Resource"] == "arn:aws:s3:::a"
    assert actions["s3:ListBucket"]["Condition"] == {
        "StringLike": {"s3:prefix": ["models/bert/0/*", "models/bert/1/*"]}
    }


def test_the_role_sees_the_state_of_its_own_rollback_alarms_only(build: Build) -> None:
    alarms = role_of(build, "rollback_alarms")["cloudwatch:DescribeAlarms"]["Resource"]
    assert alarms == ["arn:aws:cloudwatch:us-east-1:*:alarm:errors"]


def test_the_role_writes_captured_data_where_it_is_wanted_and_uses_one_key_through_s3_alone(build: Build) -> None:
    assert role_of(build, "captured_prefix")["s3:PutObject"]["Resource"] == "arn:aws:s3:::a/captured/a/*"
    read_only = role_of(build, "kms_key_arn")
    assert [action for action in read_only if action.startswith("kms:")] == ["kms:Decrypt"]
    both = role_of(build, "kms_key_arn", "captured_prefix")
    assert both["kms:Decrypt"] == both["kms:GenerateDataKey"]
    assert both["kms:Decrypt"]["Resource"] == KEY
    assert both["kms:Decrypt"]["Condition"] == {"StringEquals": {"kms:ViaService": "s3.us-east-1.amazonaws.com"}}


def test_the_role_makes_network_interfaces_in_the_model_s_subnets_and_groups_only(build: Build) -> None:
    actions = role_of(build, "vpc")
    interfaces, subnet = "arn:aws:ec2:us-east-1:*:network-interface/*", "arn:aws:ec2:us-east-1:*:subnet/subnet-0a"
    group = "arn:aws:ec2:us-east-1:*:security-group/sg-0a"
    assert actions["ec2:CreateNetworkInterface"]["Resource"] == [interfaces, subnet, group]
    for action in ("ec2:CreateNetworkInterfacePermission", "ec2:DeleteNetworkInterface"):
        assert actions[action]["Resource"] == interfaces
        assert actions[action]["Condition"] == {"ArnLike": {"ec2:Subnet": [subnet]}}
    unbound = [action for action, each in actions.items() if action.startswith("ec2:") and each["Resource"] == "*"]
    assert all(action.startswith("ec2:Describe") for action in unbound)


def test_only_sagemaker_takes_the_role(build: Build) -> None:
    (statement,) = json.loads(inputs(build(EndpointRole), "role")["assumeRolePolicy"])["Statement"]
    assert statement == {
        "Effect": "Allow",
        "Principal": {"Service": "sagemaker.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }


def test_the_s3_bucket_is_private_encrypted_versioned_and_takes_tls_only(build: Build) -> None:
    registered = build(S3ModelStore)
    block = inputs(registered, "public-access-block")
    assert [value for key, value in sorted(block.items()) if key != "bucket"] == [True] * 4
    assert inputs(registered, "ownership")["rule"] == {"objectOwnership": "BucketOwnerEnforced"}
    (rule,) = inputs(registered, "encryption")["rules"]
    assert rule["applyServerSideEncryptionByDefault"] == {"sseAlgorithm": "aws:kms", "kmsMasterKeyId": KEY}
    (rule,) = inputs(build(S3ModelStore, "kms_key_arn"), "encryption")["rules"]
    assert rule["applyServerSideEncryptionByDefault"] == {"sseAlgorithm": "AES256"}
    assert inputs(registered, "versioning")["versioningConfiguration"] == {"status": "Enabled"}
    (statement,) = json.loads(inputs(registered, "policy")["policy"])["Statement"]
    arn = f"arn:aws:mock:::{NAME}-bucket"
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
    assert statement["Resource"] == [arn, f"{arn}/*"]
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_the_s3_bucket_drops_old_versions_and_unfinished_uploads_and_nothing_else(build: Build) -> None:
    old, unfinished = inputs(build(S3ModelStore), "lifecycle")["rules"]
    assert old["noncurrentVersionExpiration"] == {"noncurrentDays": 30}
    assert old["expiration"] == {"expiredObjectDeleteMarker": True}
    assert unfinished["abortIncompleteMultipartUpload"] == {"daysAfterInitiation": 7}


def test_the_endpoint_starts_with_the_plan_s_count_and_its_model_reaches_no_network(build: Build) -> None:
    registered = build(TritonEndpoint)
    (variant,) = inputs(registered, "configuration")["productionVariants"]
    assert (variant["instanceType"], variant["initialInstanceCount"]) == ("ml.g4dn.2xlarge", PLAN.count)
    model = inputs(registered, "model")
    assert model["enableNetworkIsolation"] is True
    (source,) = model["primaryContainer"]["modelDataSource"]["s3DataSources"]
    assert source == {"s3Uri": "s3://a/", "s3DataType": "S3Prefix", "compressionType": "None"}
    assert model["primaryContainer"]["environment"]["SAGEMAKER_TRITON_DEFAULT_MODEL_NAME"] == "bert"


def test_alarms_tell_the_topic_of_their_start_and_their_end(build: Build) -> None:
    told = [each.inputs for each in build(EndpointAlarms) if "metricAlarm" in each.typ]
    assert {tuple(alarm["alarmActions"] + alarm["okActions"]) for alarm in told} == {(TOPIC, TOPIC)}


def test_the_endpoint_scales_between_the_plan_s_bounds_at_its_target(build: Build) -> None:
    registered = build(EndpointScaling)
    target, policy = inputs(registered, "target"), inputs(registered, "policy")
    assert (target["minCapacity"], target["maxCapacity"]) == (PLAN.min_count, PLAN.max_count)
    assert target["resourceId"] == policy["resourceId"] == "endpoint/a/variant/triton"
    tracking = policy["targetTrackingScalingPolicyConfiguration"]
    assert tracking["targetValue"] == PLAN.scaling_target_per_minute
    metric = tracking["predefinedMetricSpecification"]["predefinedMetricType"]
    assert metric == "SageMakerVariantInvocationsPerInstance"


def test_a_minute_at_the_measured_throughput_takes_the_burst_s_steps(build: Build) -> None:
    registered = build(EndpointScaling)
    alarm, policy = inputs(registered, "burst-alarm"), inputs(registered, "burst-policy")
    assert alarm["alarmActions"] == [f"arn:aws:mock:::{NAME}-burst-policy"]
    assert (alarm["namespace"], alarm["metricName"], alarm["statistic"]) == (
        "AWS/SageMaker",
        "InvocationsPerInstance",
        "Sum",
    )
    assert alarm["dimensions"] == {"EndpointName": "a", "VariantName": "triton"}
    assert (alarm["threshold"], alarm["period"], alarm["evaluationPeriods"]) == (1335, 60, 1)
    assert alarm["comparisonOperator"] == "GreaterThanOrEqualToThreshold"
    assert alarm["treatMissingData"] == "notBreaching"
    steps = policy["stepScalingPolicyConfiguration"]["stepAdjustments"]
    bounds = [(step["metricIntervalLowerBound"], step.get("metricIntervalUpperBound")) for step in steps]
    assert bounds == [("0", "333.75"), ("333.75", "667.5"), ("667.5", "1335"), ("1335", None)]
    assert [step["scalingAdjustment"] for step in steps] == [43, 79, 115, 186]


def test_a_schedule_moves_the_floor_and_nothing_else(build: Build) -> None:
    action = inputs(build(EndpointScaling), "floor-1")
    assert (action["schedule"], action["timezone"]) == (MORNING.schedule, MORNING.timezone)
    assert action["scalableTargetAction"] == {"minCapacity": 5}
    assert action["resourceId"] == "endpoint/a/variant/triton"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"instance_types": ["ml.g5.xlarge"]}, '"ml.g5.xlarge" has no T4; one of ml.g4dn.xlarge, '),
        ({"load_test": replace(LOAD_TEST, environment={"A": ("1", "2")})}, "environment: A has several values"),
        (
            {
                "load_test": replace(LOAD_TEST, job_duration_s=1500),
                "instance_types": ["ml.g4dn.xlarge", "ml.g4dn.12xlarge"],
            },
            "3000 s that 2 tests",
        ),
    ],
)
def test_a_recommendation_that_could_not_be_measured_is_refused_by_the_preview(
    changed: dict[str, Any], said: str, build: Build
) -> None:
    with pytest.raises(RecommendationError, match=re.escape(said)):
        build(Recommendation, **changed)


# --- Google Cloud -----------------------------------------------------------------------------------------------------


def test_the_gcs_bucket_is_private_and_versioned(build: Build) -> None:
    bucket = inputs(build(GcsModelStore), "bucket")
    assert bucket["publicAccessPrevention"] == "enforced"
    assert bucket["uniformBucketLevelAccess"] is True
    assert bucket["versioning"] == {"enabled": True}


def test_the_gcs_bucket_drops_old_versions_and_unfinished_uploads_and_nothing_else(build: Build) -> None:
    old, unfinished = inputs(build(GcsModelStore), "bucket")["lifecycleRules"]
    assert old == {"action": {"type": "Delete"}, "condition": {"daysSinceNoncurrentTime": 30}}
    assert unfinished == {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 7}}


def test_the_reader_may_read_one_bucket_and_one_kubernetes_account_may_be_it(build: Build) -> None:
    registered = build(BucketAccount)
    grants = {each.inputs["role"] for each in registered if "bucketIAMMember" in each.typ}
    assert grants == {"roles/storage.objectViewer", "roles/storage.legacyBucketReader"}
    binding = inputs(registered, "workload-identity")
    assert binding["role"] == "roles/iam.workloadIdentityUser"
    assert binding["member"] == "serviceAccount:a.svc.id.goog[a/a]"


def test_the_cluster_is_private_and_only_named_networks_reach_its_control_plane(build: Build) -> None:
    cluster = inputs(build(GpuCluster), "cluster")
    assert cluster["privateClusterConfig"]["enablePrivateNodes"] is True
    assert cluster["masterAuthorizedNetworksConfig"]["cidrBlocks"] == [{"cidrBlock": "203.0.113.0/24"}]
    closed = inputs(build(GpuCluster, authorized_networks=[]), "cluster")
    assert closed["masterAuthorizedNetworksConfig"] == {"cidrBlocks": []}
    assert cluster["removeDefaultNodePool"] is True
    assert cluster["workloadIdentityConfig"] == {"workloadPool": "a.svc.id.goog"}
    assert cluster["enableShieldedNodes"] is True


def test_a_t4_node_has_one_t4_with_its_driver_and_the_pool_has_the_plan_s_bounds(build: Build) -> None:
    pool = inputs(build(GpuCluster), "t4")
    (t4,) = pool["nodeConfig"]["guestAccelerators"]
    assert (t4["type"], t4["count"]) == ("nvidia-tesla-t4", 1)
    assert t4["gpuDriverInstallationConfig"] == {"gpuDriverVersion": "LATEST"}
    assert pool["nodeConfig"]["machineType"] == PLAN.instance_type
    bounds = (pool["autoscaling"]["totalMinNodeCount"], pool["autoscaling"]["totalMaxNodeCount"])
    assert bounds == (PLAN.min_count, PLAN.max_count)
    assert "nodeCount" not in pool
    assert pool["nodeLocations"] == ["us-central1-a", "us-central1-b", "us-central1-c", "us-central1-f"]


def test_an_upgrade_of_the_t4_pool_needs_no_t4_beyond_its_bound(build: Build) -> None:
    upgrade = inputs(build(GpuCluster), "t4")["upgradeSettings"]
    assert (upgrade["maxSurge"], upgrade["maxUnavailable"]) == (0, 1)


def test_nodes_run_as_an_account_of_their_own_that_may_only_write_logs_and_metrics(build: Build) -> None:
    registered = build(GpuCluster)
    pools = [each.inputs["nodeConfig"] for each in registered if each.typ.endswith(":NodePool")]
    assert {pool["serviceAccount"] for pool in pools} == {f"{NAME}-nodes@mock"}
    assert {pool["workloadMetadataConfig"]["mode"] for pool in pools} == {"GKE_METADATA"}
    assert inputs(registered, "nodes-role")["role"] == "roles/container.defaultNodeServiceAccount"


def test_every_region_of_a_stack_has_an_account_id_of_its_own_that_google_takes() -> None:
    ids = [account_id(f"triton-{stack}-{region}", "nodes") for stack in ("prod", "production") for region in T4_ZONES]
    assert len(set(ids)) == len(ids)
    assert not [each for each in ids if not re.fullmatch("[a-z][a-z0-9-]{4,28}[a-z0-9]", each)]


# --- Kubernetes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pod(build: Build) -> dict[str, Any]:
    return inputs(build(TritonDeployment), "deployment")["spec"]["template"]["spec"]


def test_the_pod_is_what_restricted_asks_for_and_the_namespace_asks_for_it(build: Build) -> None:
    # https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    registered = build(TritonDeployment)
    labels = inputs(registered, "namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = inputs(registered, "deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {key for volume in pod["volumes"] for key in volume} == {"name", "emptyDir"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)


def test_a_pod_that_goes_has_time_to_be_drained(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    (exit_timeout,) = [a.partition("=")[2] for a in container["args"] if a.startswith("--exit-timeout-secs=")]
    pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pre_stop > 0
    assert pre_stop + int(exit_timeout) <= pod["terminationGracePeriodSeconds"]


def test_a_pod_takes_one_t4_and_one_node(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"}
    assert [t["key"] for t in pod["tolerations"]] == ["nvidia.com/gpu"]


def test_the_count_is_left_to_the_autoscaler_and_a_rollout_needs_no_spare_t4(build: Build) -> None:
    spec = inputs(build(TritonDeployment), "deployment")["spec"]
    assert "replicas" not in spec
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_clients_reach_http_and_grpc_from_within_the_network_and_nothing_else(build: Build) -> None:
    registered = build(TritonDeployment, http_port=80, grpc_port=81)
    service, deployment = inputs(registered, "service"), inputs(registered, "deployment")
    assert service["metadata"]["annotations"] == {"networking.gke.io/load-balancer-type": "Internal"}
    assert [(p["port"], p["targetPort"]) for p in service["spec"]["ports"]] == [(80, "http"), (81, "grpc")]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]


def test_a_pod_is_somebody_to_google_only_where_an_account_is_given(build: Build) -> None:
    account = inputs(build(TritonDeployment), "account")
    assert account["metadata"]["annotations"] == {"iam.gke.io/gcp-service-account": "a@local"}
    assert account["automountServiceAccountToken"] is False
    nobody = inputs(build(TritonDeployment, google_service_account=None), "account")
    assert not nobody["metadata"]["annotations"]


def test_pods_scale_between_the_plan_s_bounds_at_its_target(build: Build) -> None:
    spec = inputs(build(TritonScaling), "autoscaler")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (PLAN.min_count, PLAN.max_count)
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}
    (metric,) = spec["metrics"]
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "934500m"}


@pytest.mark.parametrize(
    ("target", "quantity"), [(12.5, "12500m"), (1500.0, "1500"), (2000.0, "2k"), (3e6, "3M"), (1234567.0, "1234567")]
)
def test_a_target_is_written_as_the_api_server_gives_it_back(target: float, quantity: str, build: Build) -> None:
    spec = inputs(build(TritonScaling, plan=replace(PLAN, scaling_target_per_minute=target)), "autoscaler")["spec"]
    assert spec["metrics"][0]["pods"]["target"]["averageValue"] == quantity


# --- Engines ----------------------------------------------------------------------------------------------------------


def test_the_build_s_role_reads_its_sources_and_writes_its_own_builds_only(build: Build) -> None:
    statements = json.loads(inputs(build(SageMakerEngineBuild), "policy")["policy"])["Statement"]
    granted = {str(statement["Action"]): statement["Resource"] for statement in statements}
    builds = f"arn:aws:s3:::a/builds/triton-engine-{order().key[:16]}-*"
    assert granted["s3:GetObject"] == [builds, f"arn:aws:s3:::a/{order().source_prefix}/*"]
    assert granted["s3:PutObject"] == builds
    assert [action for action, resource in granted.items() if resource == "*"] == ["ecr:GetAuthorizationToken"]


def test_only_the_build_step_has_the_t4_and_every_step_is_restricted(build: Build) -> None:
    pod = inputs(build(KubernetesEngineBuild), "job")["spec"]["template"]["spec"]
    steps = {step["name"]: step for step in (*pod["initContainers"], *pod["containers"])}
    assert list(steps) == ["fetch", "compile", "publish"]
    with_gpu = [name for name, step in steps.items() if "nvidia.com/gpu" in step["resources"]["limits"]]
    assert with_gpu == ["compile"]
    for step in steps.values():
        assert step["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert step["securityContext"]["readOnlyRootFilesystem"]


def test_the_scratch_of_a_build_grows_with_the_model(build: Build) -> None:
    def scratch(size_bytes: int) -> str:
        pod = inputs(build(KubernetesEngineBuild, onnx_size_bytes=size_bytes), "job")["spec"]["template"]["spec"]
        return next(volume for volume in pod["volumes"] if volume["name"] == "work")["emptyDir"]["sizeLimit"]

    assert [scratch(size_bytes) for size_bytes in (1, 1_340_000_000)] == ["1Gi", "5Gi"]
