"""The emulated SageMaker, with a real Triton behind its endpoints, and the actions added to moto."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError
from processes import gone
from tiny_model import CONFIG, prefix_of, write_repository

from localcloud.pod import free_port
from model_repo.manifest import MANIFEST_NAME, Manifest

triton_http: Any = importlib.import_module("tritonclient.http")  # untyped

BUCKET = "tiny-models"
ROLE = "arn:aws:iam::123456789012:role/sagemaker"
TRUST = {"Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}}]}
ALARM = {"ComparisonOperator": "GreaterThanThreshold", "EvaluationPeriods": 1, "Threshold": 1.0}
DIMENSION = "sagemaker:variant:DesiredInstanceCount"


@dataclass
class Aws:
    """One emulator and its clients."""

    url: str
    state: Path

    def client(self, service: str) -> Any:
        session: Any = boto3.Session("local", "local", region_name="us-east-1")
        return session.client(service, endpoint_url=self.url, config=Config(retries={"total_max_attempts": 1}))

    def __post_init__(self) -> None:
        services = ("s3", "sagemaker", "sagemaker-runtime", "application-autoscaling")
        self.s3, self.sagemaker, self.runtime, self.scaling = (self.client(service) for service in services)

    def publish(self, folder: Path, config: str = CONFIG) -> Manifest:
        """Upload a tiny repository made in ``folder``."""
        manifest = write_repository(folder, config)
        for path in (MANIFEST_NAME, *(file.path for file in manifest.files)):
            self.s3.upload_file(str(folder / path), BUCKET, f"{prefix_of(manifest)}/{path}")
        return manifest

    def configure(self, name: str, manifest: Manifest, **environment: str) -> None:
        """Make a model and an endpoint configuration, both called ``name``."""
        source = {"S3DataType": "S3Prefix", "CompressionType": "None", "S3Uri": f"s3://{BUCKET}/{prefix_of(manifest)}/"}
        container = {"Image": "triton", "Environment": environment, "ModelDataSource": {"S3DataSource": source}}
        self.sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=container)
        instances = {"InstanceType": "ml.g4dn.xlarge", "InitialInstanceCount": 2}
        variants = [{"VariantName": "primary", "ModelName": name, **instances}]
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=variants)

    def settled(self, endpoint: str) -> dict[str, Any]:
        """The endpoint's description once it is neither being made nor updated."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            description = self.sagemaker.describe_endpoint(EndpointName=endpoint)
            if description["EndpointStatus"] not in ("Creating", "Updating"):
                return description
            time.sleep(0.05)
        raise TimeoutError(endpoint)

    def double(self, endpoint: str) -> list[float]:
        """What the endpoint makes of [1, 2, 3, 4]."""
        body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
        answer = self.runtime.invoke_endpoint(
            EndpointName=endpoint, ContentType="application/json", Body=json.dumps(body).encode()
        )
        return json.loads(answer["Body"].read())["outputs"][0]["data"]

    def record(self, endpoint: str) -> dict[str, Any]:
        return json.loads((self.state / f"sagemaker/{endpoint}.json").read_bytes())


@contextmanager
def emulator(state: Path, *options: str) -> Generator[Aws]:
    port = free_port()
    argv = [sys.executable, "-m", "localcloud.aws_emulator", f"--port={port}", f"--state={state}", *options]
    with (state / "log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            aws = Aws(f"http://127.0.0.1:{port}", state)
            deadline = time.monotonic() + 30
            while not answers(aws):
                assert process.poll() is None, (state / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            aws.s3.create_bucket(Bucket=BUCKET)
            aws.client("iam").create_role(RoleName=ROLE.rpartition("/")[2], AssumeRolePolicyDocument=json.dumps(TRUST))
            aws.client("cloudwatch").put_metric_alarm(AlarmName="latency", **ALARM)
            yield aws
        finally:
            process.terminate()


def answers(aws: Aws) -> bool:
    try:
        aws.s3.list_buckets()
    except EndpointConnectionError:
        return False
    return True


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Generator[Aws]:
    with emulator(tmp_path_factory.mktemp("aws")) as running:
        yield running


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Generator[Aws]:
    """An emulator whose endpoints have no Triton."""
    with emulator(tmp_path_factory.mktemp("shapes"), "--no-triton") as running:
        yield running


def refused(code: str, message: str, action: Callable[..., Any], **arguments: Any) -> None:
    with pytest.raises(ClientError, match=message) as caught:
        action(**arguments)
    response: Any = caught.value.response
    assert response["Error"]["Code"] == code


def test_an_endpoint_serves_the_uploaded_bytes_with_the_container_s_environment(aws: Aws, tmp_path: Path) -> None:
    manifest = aws.publish(tmp_path / "a")
    aws.configure("serving", manifest, SAGEMAKER_TRITON_THREAD_COUNT="3")
    aws.sagemaker.create_endpoint(EndpointName="serving", EndpointConfigName="serving")
    refused("ValidationError", "not found", aws.runtime.invoke_endpoint, EndpointName="serving", Body=b"")
    description = aws.settled("serving")
    assert description["EndpointStatus"] == "InService"
    assert description["ProductionVariants"][0]["DesiredInstanceCount"] == 2
    assert aws.double("serving") == [2, 4, 6, 8]
    record = aws.record("serving")
    assert record["digest"] == manifest.digest
    assert record["environment"]["SAGEMAKER_TRITON_THREAD_COUNT"] == "3"
    assert psutil.Process(record["pid"]).cmdline() == record["argv"]
    assert "--sagemaker-thread-count=3" in record["argv"]

    aws.sagemaker.delete_endpoint(EndpointName="serving")
    assert gone(record["pid"])
    assert not list((aws.state / "sagemaker").glob("serving*"))


@pytest.fixture(scope="module")
def endpoint(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An endpoint in service."""
    aws.configure("shared", aws.publish(tmp_path_factory.mktemp("repository") / "a"))
    aws.sagemaker.create_endpoint(EndpointName="shared", EndpointConfigName="shared")
    assert aws.settled("shared")["EndpointStatus"] == "InService"
    return "shared"


def test_binary_tensors_pass_unchanged(aws: Aws, endpoint: str) -> None:
    values = np.linspace(-1e30, 1e30, 12, dtype=np.float32).reshape(3, 4)
    tensor = triton_http.InferInput("x", values.shape, "FP32")
    tensor.set_data_from_numpy(values)
    output = triton_http.InferRequestedOutput("y", binary_data=True)
    body, header = triton_http.InferenceServerClient.generate_request_body([tensor], outputs=[output])
    content_type = f"application/vnd.sagemaker-triton.binary+json;json-header-size={header}"
    answer = aws.runtime.invoke_endpoint(EndpointName=endpoint, ContentType=content_type, Body=body)
    match = re.fullmatch(r"application/vnd.sagemaker-triton.binary\+json;json-header-size=(\d+)", answer["ContentType"])
    assert match
    parse = triton_http.InferenceServerClient.parse_response_body
    result = parse(answer["Body"].read(), header_length=int(match[1]))
    np.testing.assert_array_equal(result.as_numpy("y"), 2 * values)
    assert answer["InvokedProductionVariant"] == "primary"


def test_an_error_of_the_container_is_a_model_error(aws: Aws, endpoint: str) -> None:
    with pytest.raises(ClientError, match="expected 1 inputs but got 0") as caught:
        aws.runtime.invoke_endpoint(EndpointName=endpoint, ContentType="application/json", Body=b'{"inputs":[]}')
    response: Any = caught.value.response
    assert response["Error"]["Code"] == "ModelError"
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert response["OriginalStatusCode"] == 400


def test_an_update_that_does_not_load_leaves_the_old_configuration_serving(
    aws: Aws, endpoint: str, tmp_path: Path
) -> None:
    pid = aws.record(endpoint)["pid"]
    aws.configure(
        "wrong", aws.publish(tmp_path / "a", CONFIG.replace('"y" data_type: TYPE_FP32', '"y" data_type: TYPE_INT8'))
    )
    aws.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName="wrong")
    refused(
        "ValidationException",
        "in-progress",
        aws.sagemaker.update_endpoint,
        EndpointName=endpoint,
        EndpointConfigName="wrong",
    )
    assert aws.double(endpoint) == [2, 4, 6, 8]
    description = aws.settled(endpoint)
    assert (description["EndpointStatus"], description["EndpointConfigName"]) == ("InService", "shared")
    assert "output y TYPE_INT8 is not in the ONNX file" in description["FailureReason"]
    assert aws.record(endpoint)["pid"] == pid
    assert aws.double(endpoint) == [2, 4, 6, 8]


def test_an_update_moves_the_endpoint_to_other_bytes(aws: Aws, tmp_path: Path) -> None:
    first, second = aws.publish(tmp_path / "a"), aws.publish(tmp_path / "b", CONFIG.replace("size: 8", "size: 4"))
    for name, manifest in (("before", first), ("after", second)):
        aws.configure(name, manifest)
    rollback = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "latency"}]}}
    aws.sagemaker.create_endpoint(EndpointName="moving", EndpointConfigName="before", DeploymentConfig=rollback)
    assert aws.settled("moving")["LastDeploymentConfig"] == rollback
    old = aws.record("moving")
    aws.sagemaker.update_endpoint(EndpointName="moving", EndpointConfigName="after", RetainDeploymentConfig=True)
    description = aws.settled("moving")
    assert (description["EndpointStatus"], description["EndpointConfigName"]) == ("InService", "after")
    assert description["LastDeploymentConfig"] == rollback
    assert (old["digest"], aws.record("moving")["digest"]) == (first.digest, second.digest)
    assert aws.double("moving") == [2, 4, 6, 8]
    aws.sagemaker.delete_endpoint(EndpointName="moving")


def test_a_triton_that_dies_is_started_again(aws: Aws, endpoint: str) -> None:
    pid = aws.record(endpoint)["pid"]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while aws.record(endpoint)["pid"] == pid and time.monotonic() < deadline:
        time.sleep(0.1)
    assert aws.double(endpoint) == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("tiny/config.pbtxt", b"x", "SHA-256"),
        ("tiny/1/model.onnx", None, "model.onnx: missing"),
        (MANIFEST_NAME, None, "no manifest.json"),
    ],
)
def test_bytes_that_are_not_the_digest_s_fail_the_endpoint(
    aws: Aws, tmp_path: Path, path: str, content: bytes | None, reason: str
) -> None:
    manifest = aws.publish(tmp_path / "a", f"{CONFIG}# {reason}\n")
    key = f"{prefix_of(manifest)}/{path}"
    aws.s3.delete_object(Bucket=BUCKET, Key=key)
    if content is not None:
        aws.s3.put_object(Bucket=BUCKET, Key=key, Body=content)
    name = f"spoilt-{manifest.digest[:8]}"
    aws.configure(name, manifest)
    aws.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    description = aws.settled(name)
    assert description["EndpointStatus"] == "Failed"
    assert reason in description["FailureReason"]
    aws.sagemaker.delete_endpoint(EndpointName=name)


@pytest.fixture(scope="module")
def shape(shapes: Aws, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An endpoint without a Triton."""
    shapes.configure("shape", write_repository(tmp_path_factory.mktemp("repository") / "a"))
    shapes.sagemaker.create_endpoint(EndpointName="shape", EndpointConfigName="shape")
    assert shapes.sagemaker.describe_endpoint(EndpointName="shape")["EndpointStatus"] == "InService"
    return "shape"


def test_duplicates_and_what_does_not_exist_are_refused(shapes: Aws, shape: str) -> None:
    sagemaker, code = shapes.sagemaker, "ValidationException"
    both = {"EndpointName": shape, "EndpointConfigName": shape}
    refused(code, "already existing endpoint ", sagemaker.create_endpoint, **both)
    container = {"Image": "triton"}
    refused(code, "already existing model", sagemaker.create_model, ModelName=shape, PrimaryContainer=container)
    variants = sagemaker.describe_endpoint_config(EndpointConfigName=shape)["ProductionVariants"]
    create_config = sagemaker.create_endpoint_config
    refused(code, "already existing", create_config, EndpointConfigName=shape, ProductionVariants=variants)
    refused(code, "Could not find", sagemaker.create_endpoint, EndpointName="other", EndpointConfigName="none")
    refused(code, "Could not find", sagemaker.update_endpoint, EndpointName="none", EndpointConfigName=shape)
    refused(code, "Could not find", sagemaker.update_endpoint, EndpointName=shape, EndpointConfigName="none")


def test_a_scalable_target_must_be_a_variant_with_bounds_in_order(shapes: Aws, shape: str) -> None:
    target = {"ServiceNamespace": "sagemaker", "ScalableDimension": DIMENSION, "MinCapacity": 1, "MaxCapacity": 3}
    resource = f"endpoint/{shape}/variant/primary"
    register = shapes.scaling.register_scalable_target
    for wrong in ("endpoint/none/variant/primary", f"endpoint/{shape}/variant/none"):
        refused("ValidationException", "does not exist", register, **target, ResourceId=wrong)
    refused("ValidationException", "less than", register, **{**target, "MinCapacity": 4}, ResourceId=resource)
    register(**target, ResourceId=resource)
    (found,) = shapes.scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (found["MinCapacity"], found["MaxCapacity"]) == (1, 3)


@pytest.fixture
def scaled(shapes: Aws, shape: str) -> dict[str, Any]:
    """What names a registered target."""
    target = {"ServiceNamespace": "sagemaker", "ScalableDimension": DIMENSION}
    target["ResourceId"] = f"endpoint/{shape}/variant/primary"
    shapes.scaling.register_scalable_target(**target, MinCapacity=1, MaxCapacity=3)
    return target


def steps(*bounds: tuple[float, float]) -> dict[str, Any]:
    adjustments = [
        {"MetricIntervalLowerBound": low, "MetricIntervalUpperBound": high, "ScalingAdjustment": 50}
        for low, high in bounds
    ]
    configuration = {"AdjustmentType": "PercentChangeInCapacity", "StepAdjustments": adjustments}
    return {"PolicyType": "StepScaling", "StepScalingPolicyConfiguration": configuration}


def test_steps_and_schedules_that_make_no_sense_are_refused(shapes: Aws, scaled: dict[str, Any]) -> None:
    put, schedule = shapes.scaling.put_scaling_policy, shapes.scaling.put_scheduled_action
    code, action = "ValidationException", {**scaled, "ScheduledActionName": "floor", "Schedule": "cron(0 7 ? * 2-6 *)"}
    refused(code, "At least one step", put, **scaled, PolicyName="burst", **steps())
    refused(code, "Lower bound", put, **scaled, PolicyName="burst", **steps((5, 5)))
    bounds = {"MinCapacity": 2}
    for wrong in ("cron(0 7 * * 2-6)", "every morning"):
        refused(code, "schedule expression", schedule, **{**action, "Schedule": wrong}, ScalableTargetAction=bounds)
    refused(code, "time zone", schedule, **action, Timezone="Europe/Bonn", ScalableTargetAction=bounds)
    refused(code, "less than", schedule, **action, ScalableTargetAction={"MinCapacity": 3, "MaxCapacity": 2})


def test_a_changed_policy_keeps_its_arn_and_is_found_by_its_name(shapes: Aws, scaled: dict[str, Any]) -> None:
    put, describe = shapes.scaling.put_scaling_policy, shapes.scaling.describe_scaling_policies
    put(**scaled, PolicyName="other", **steps((0, 1)))
    first = put(**scaled, PolicyName="burst", **steps((0, 5)))["PolicyARN"]
    assert put(**scaled, PolicyName="burst", **steps((0, 9)))["PolicyARN"] == first
    (found,) = describe(**scaled, PolicyNames=["burst"])["ScalingPolicies"]
    assert found["PolicyARN"] == first
    assert found["StepScalingPolicyConfiguration"]["StepAdjustments"][0]["MetricIntervalUpperBound"] == 9


def test_what_scales_a_target_needs_it_and_goes_with_it(shapes: Aws, scaled: dict[str, Any]) -> None:
    scaling, code = shapes.scaling, "ObjectNotFoundException"
    action = {**scaled, "ScheduledActionName": "floor"}
    floor = {"Schedule": "cron(0 7 ? * 2-6 *)", "Timezone": "Europe/Berlin", "ScalableTargetAction": {"MinCapacity": 2}}
    scaling.put_scaling_policy(**scaled, PolicyName="burst", **steps((0, 5)))
    scaling.put_scheduled_action(**action, **floor)
    scaling.deregister_scalable_target(**scaled)
    assert scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"] == []
    assert scaling.describe_scheduled_actions(ServiceNamespace="sagemaker")["ScheduledActions"] == []
    refused(code, "scaling policy", scaling.delete_scaling_policy, **scaled, PolicyName="burst")
    refused(code, "scheduled action", scaling.delete_scheduled_action, **action)
    refused(code, "scalable target", scaling.put_scaling_policy, **scaled, PolicyName="burst", **steps((0, 5)))
    refused(code, "scalable target", scaling.put_scheduled_action, **action, **floor)
    refused(code, "scalable target", scaling.deregister_scalable_target, **scaled)


@pytest.mark.parametrize(
    ("service", "action", "arguments"),
    [
        ("application-autoscaling", "describe_scaling_activities", {"ServiceNamespace": "sagemaker"}),
        ("iam", "simulate_principal_policy", {"PolicySourceArn": ROLE, "ActionNames": ["s3:GetObject"]}),
    ],
)
def test_an_action_that_nobody_implements_says_so_at_once(
    shapes: Aws, service: str, action: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(ClientError, match=f"does not have this action: The {action}") as caught:
        getattr(shapes.client(service), action)(**arguments)
    response: Any = caught.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 501
