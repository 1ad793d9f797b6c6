"""AWS on loopback: moto's server, with the actions that this stack needs and moto lacks.

Run as ``python -m localcloud.aws_emulator --port PORT --state FOLDER``. Added here, in memory as all of moto's:

- SageMaker: UpdateEndpoint with its rollback alarms, LastDeploymentConfig, shadow variants, refusal of duplicates, real
  hosting (:mod:`localcloud.hosting`), and Inference Recommender jobs, whose results are handed in
  (:mod:`localcloud.recommender`).
- SageMaker: processing jobs run their entrypoint as a process (:mod:`localcloud.processing`), where moto's complete at
  once and do nothing.
- SageMaker: the deletion of model packages and their groups (:mod:`localcloud.model_registry`).
- SageMaker: what it refuses and moto accepts (:mod:`localcloud.judge`). Whether model data is there is looked at only
  where a Triton loads it.
- What the account lacks: quotas, images and permissions that ``<state>/account.json`` takes away
  (:mod:`localcloud.account`).
- SageMaker Runtime: InvokeEndpoint, answered by the Triton behind the endpoint.
- Application Auto Scaling: a target must name an existing endpoint variant, what scales must name a target, and goes
  with it; a policy keeps its ARN.
- S3: a bucket policy's conditional statements are left out, where moto applies them without their condition.
- An action that nobody implements answers 501, which SDKs do not retry, where moto answers 500, which they do.
"""

import argparse
import functools
import json
import logging
import math
import os
import re
import signal
import sys
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs
from zoneinfo import available_timezones

import boto3
from flask import Flask, request
from moto.applicationautoscaling import urls as autoscaling_urls
from moto.applicationautoscaling.exceptions import AWSValidationException
from moto.applicationautoscaling.models import FakeApplicationAutoscalingPolicy, FakeScheduledAction
from moto.applicationautoscaling.responses import ApplicationAutoScalingResponse
from moto.backends import SERVICE_NAMES
from moto.cloudwatch.models import cloudwatch_backends
from moto.core.exceptions import JsonRESTError
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.core.responses import ActionResult, EmptyResult
from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import FakeBucket
from moto.sagemaker import urls as sagemaker_urls
from moto.sagemaker.exceptions import ResourceInUseException, ValidationError
from moto.sagemaker.models import FakeEndpoint, sagemaker_backends
from moto.sagemakerruntime import urls as runtime_urls
from moto.sagemakerruntime.responses import SageMakerRuntimeResponse
from werkzeug.serving import run_simple

from localcloud.account import Account
from localcloud.hosting import Container, Hosting
from localcloud.judge import Judge
from localcloud.model_registry import ModelRegistry
from localcloud.pod import LOOPBACK
from localcloud.processing import Processing
from localcloud.recommender import Recommender
from localcloud.triton import TritonError

_STARTUP_SECONDS = 300

# What moto's endpoints have → what a configuration calls it.
_VARIANTS = {"production_variants": "ProductionVariants", "shadow_production_variants": "ShadowProductionVariants"}


class SageMaker(ModelRegistry):
    """SageMaker's control plane. Actions are methods, named and answered as moto does it."""

    hosting: ClassVar[Hosting | None] = None
    """None: endpoints are in service at once, and nothing runs."""
    processing: ClassVar[Processing]
    state: ClassVar[Path]
    recommender: ClassVar[Recommender]

    def create_model(self) -> ActionResult:
        """As moto, which accepts duplicates and forgets network isolation."""
        models: dict[str, Any] = self.sagemaker_backend._models  # pyright: ignore[reportPrivateUsage]
        name = self._new_name("ModelName", models)
        self._judge().model(self._get_params())
        result = super().create_model()
        models[name].enable_network_isolation = bool(self._get_param("EnableNetworkIsolation"))
        return result

    def create_endpoint_config(self) -> ActionResult:
        """As moto, which accepts duplicates and forgets shadow variants."""
        configs: dict[str, Any] = self.sagemaker_backend.endpoint_configs
        name = self._new_name("EndpointConfigName", configs)
        self._judge().endpoint_config(self._get_params())
        result = super().create_endpoint_config()
        # moto describes what a configuration has as attributes.
        configs[name].shadow_production_variants = self._get_param("ShadowProductionVariants")
        return result

    def create_endpoint(self) -> ActionResult:
        """As moto, and put its model into service."""
        name = self._new_name("EndpointName", self.sagemaker_backend.endpoints)
        container = self._container(name)
        self._judge().deployment(self._get_params())
        result = super().create_endpoint()
        self._host(self.sagemaker_backend.endpoints[name], container, "Creating")
        return result

    def update_endpoint(self) -> ActionResult:
        """Move an endpoint to another configuration; it goes on serving the old one until the new one answers."""
        name = self._get_param("EndpointName")
        self.sagemaker_backend.describe_endpoint(name)  # raises what SageMaker answers when there is none
        container = self._container(name)
        endpoint: Any = self.sagemaker_backend.endpoints[name]
        if endpoint.endpoint_status not in ("InService", "Failed"):
            raise ValidationError(f'Cannot update in-progress endpoint "{endpoint.arn}".')
        self._judge().deployment(self._get_params())
        self._host(endpoint, container, "Updating")
        return ActionResult({"EndpointArn": endpoint.arn})

    def delete_endpoint(self) -> ActionResult:
        """As moto, and stop what serves it."""
        result = super().delete_endpoint()
        if self.hosting:
            self.hosting.delete(self._get_param("EndpointName"))
        return result

    def delete_endpoint_config(self) -> ActionResult:
        """As moto, unless an endpoint runs it."""
        self._judge().config_is_unused(self._get_param("EndpointConfigName"))
        return super().delete_endpoint_config()

    def delete_model(self) -> ActionResult:
        """As moto, unless an endpoint serves it."""
        self._judge().model_is_unused(self._get_param("ModelName"))
        return super().delete_model()

    def create_processing_job(self) -> ActionResult:
        """As moto, which accepts duplicates and any role, and run it."""
        name, jobs = self._get_param("ProcessingJobName"), self.sagemaker_backend.processing_jobs
        if name in jobs:
            raise ResourceInUseException(f"Job name must be unique within an AWS account and region: {name}")
        self._judge().role(self._get_param("RoleArn"))
        result = super().create_processing_job()
        job: Any = jobs[name]  # moto's type lacks what is known at the end
        job.processing_job_status, job.processing_end_time = "InProgress", None

        def ended(status: str, message: str | None) -> None:
            job.processing_job_status, job.exit_message = status, message
            job.failure_reason = "AlgorithmError: see ExitMessage" if status == "Failed" else None
            job.processing_end_time = job.last_modified_time = datetime.now(UTC)

        self.processing.run(self._get_params(), ended)
        return result

    def stop_processing_job(self) -> ActionResult:
        """Stop a job."""
        name = self._get_param("ProcessingJobName")
        self.sagemaker_backend.describe_processing_job(name)  # raises what SageMaker answers when there is none
        self.processing.stop(name)
        return EmptyResult()

    def create_inference_recommendations_job(self) -> ActionResult:
        """Record a job, of a model and a role that are there."""
        self._judge().role(self._get_param("RoleArn"))
        model = self._get_param("InputConfig").get("ModelName")
        if model is not None:
            self.sagemaker_backend.describe_model(model)  # raises what SageMaker answers when there is none
        arn = f"arn:aws:sagemaker:{self.region}:{self.current_account}:inference-recommendations-job"
        return ActionResult(self.recommender.create(self._get_params(), arn))

    def describe_inference_recommendations_job(self) -> ActionResult:
        """Describe a job, with the results that were handed in."""
        return ActionResult(self.recommender.describe(self._get_param("JobName")))

    def list_inference_recommendations_jobs(self) -> ActionResult:
        """List jobs, in one page."""
        return ActionResult(self.recommender.jobs(self._get_param("NameContains", "")))

    def list_inference_recommendations_job_steps(self) -> ActionResult:
        """List a job's benchmarks, in one page."""
        return ActionResult(self.recommender.steps(self._get_param("JobName")))

    def stop_inference_recommendations_job(self) -> ActionResult:
        """Stop a job: results that are handed in later come too late."""
        self.recommender.stop(self._get_param("JobName"))
        return EmptyResult()

    def _judge(self) -> Judge:
        loads = self.hosting is not None
        return Judge(self.current_account, self.region, Account.read(self.state), loads)

    def get_scaling_configuration_recommendation(self) -> ActionResult:
        """Advise on scaling, as was handed in."""
        name, recommendation = self._get_param("InferenceRecommendationsJobName"), self._get_param("RecommendationId")
        return ActionResult(self.recommender.scaling(name, recommendation))

    def _new_name(self, parameter: str, existing: dict[str, Any]) -> str:
        name: str = self._get_param(parameter)
        if name in existing:
            kind = {"ModelName": "model", "EndpointName": "endpoint"}.get(parameter, "endpoint-config")
            raise ValidationError(f'Cannot create already existing {kind} "{existing[name].arn}".')
        return name

    def _host(self, made: FakeEndpoint, container: Container, status: str) -> None:
        """Bring the endpoint to its configuration, unless that does not serve or one of its rollback alarms rings."""
        endpoint: Any = made  # moto's type lacks what is set here
        config = self.sagemaker_backend.describe_endpoint_config(container.config)
        rolled_back = functools.partial(self._rolled_back, status, self._get_param("DeploymentConfig") or {})

        def settled(failure: str | None) -> None:
            if failure is None:
                endpoint.endpoint_config_name = container.config
                for key, variants in _VARIANTS.items():
                    setattr(endpoint, key, endpoint._process_production_variants(config.get(variants) or []) or None)
            endpoint.failure_reason = failure
            old_serves = self.hosting.serves(container.endpoint) if self.hosting else status == "Updating"
            endpoint.endpoint_status = "InService" if failure is None or old_serves else "Failed"
            endpoint.last_modified_time = datetime.now(UTC)

        endpoint.failure_reason, endpoint.endpoint_status = None, status
        if not self._get_param("RetainDeploymentConfig"):
            endpoint.last_deployment_config = self._get_param("DeploymentConfig")
        if self.hosting:
            self.hosting.deploy(container, settled, rolled_back)
        else:
            settled(rolled_back())

    def _rolled_back(self, status: str, deployment: dict[str, Any]) -> str | None:
        """Why an update goes back to the old configuration: a rollback alarm rings; None where none does."""
        alarms = cloudwatch_backends[self.current_account][self.region].alarms
        watched = [each["AlarmName"] for each in deployment.get("AutoRollbackConfiguration", {}).get("Alarms", [])]
        ringing = [name for name in watched if name in alarms and alarms[name].state_value == "ALARM"]
        if status != "Updating" or not ringing:
            return None
        return f"The deployment was rolled back, for it set off an alarm: {', '.join(ringing)}"

    def _container(self, endpoint: str) -> Container:
        """What the request's configuration says to run; of several variants, the first."""
        config = self.sagemaker_backend.describe_endpoint_config(self._get_param("EndpointConfigName"))
        variant: dict[str, Any] = config["ProductionVariants"][0]
        definition = self.sagemaker_backend.describe_model(variant["ModelName"]).primary_container or {}
        return Container(
            endpoint=endpoint,
            config=config["EndpointConfigName"],
            variant=variant["VariantName"],
            s3_uri=definition.get("ModelDataSource", {}).get("S3DataSource", {}).get("S3Uri", ""),
            environment=definition.get("Environment") or {},
            startup_seconds=variant.get("ContainerStartupHealthCheckTimeoutInSeconds", _STARTUP_SECONDS),
        )


class SageMakerRuntime(SageMakerRuntimeResponse):
    """SageMaker's data plane."""

    use_raw_body = True  # a tensor is no text

    def invoke_endpoint(self) -> tuple[int, dict[str, str], Any]:
        """Relay an invocation to the container; an error of its own is a ModelError, as on SageMaker."""
        name = self.path.split("/")[2]
        if SageMaker.hosting is None or not SageMaker.hosting.serves(name):
            raise JsonRESTError("ValidationError", f"Endpoint {name} of account {self.current_account} not found.")
        sent = ("Content-Type", "Accept", "X-Amzn-SageMaker-Custom-Attributes")
        headers = {key: self.headers[key] for key in sent if key in self.headers}
        try:
            status, answer, body, variant = SageMaker.hosting.invoke(name, self.body, headers)
        except TritonError as error:
            return self._model_error(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        if status != HTTPStatus.OK:
            return self._model_error(status, body.decode(errors="replace"))
        received = {key: value for key, value in answer.items() if key.lower().startswith(("content-type", "x-amzn-"))}
        return HTTPStatus.OK, {**received, "x-Amzn-Invoked-Production-Variant": variant}, body

    def _model_error(self, status: int, text: str) -> tuple[int, dict[str, str], str]:
        message = f'Received server error ({status}) from primary with message "{text}"'
        body = {"Message": message, "OriginalStatusCode": status, "OriginalMessage": text}
        failed = HTTPStatus.FAILED_DEPENDENCY
        headers = {"x-amzn-ErrorType": "ModelError", "Content-Type": "application/json", "status": str(failed.value)}
        return failed, headers, json.dumps(body)


class ObjectNotFoundError(JsonRESTError):
    """What Application Auto Scaling says of a target, policy or action that is not there."""

    def __init__(self, what: str) -> None:
        super().__init__("ObjectNotFoundException", f"No {what} found")


class ApplicationAutoScaling(ApplicationAutoScalingResponse):
    """Application Auto Scaling, which refuses what cannot be scaled.

    Errors: https://docs.aws.amazon.com/autoscaling/application/APIReference/API_Operations.html
    """

    def register_scalable_target(self) -> str:
        """As moto, which checks neither the bounds nor that the variant exists."""
        minimum, maximum = self._get_int_param("MinCapacity", 0), self._get_int_param("MaxCapacity", sys.maxsize)
        _require_order(minimum, maximum)
        resource = str(self._get_param("ResourceId"))
        endpoints = sagemaker_backends[self.current_account][self.region].endpoints.values()
        variants = {
            f"endpoint/{endpoint.endpoint_name}/variant/{variant['VariantName']}"
            for endpoint in endpoints
            for variant in endpoint.production_variants
        }
        if self._get_param("ServiceNamespace") == "sagemaker" and resource not in variants:
            raise AWSValidationException(f"The resource {resource} does not exist: no endpoint has that variant")
        return super().register_scalable_target()

    def deregister_scalable_target(self) -> str:
        """As moto, which keeps the target's policies and scheduled actions."""
        target = self._target()
        backend = self.applicationautoscaling_backend
        backend.policies = {key: each for key, each in backend.policies.items() if _target_of(each) != target}
        backend.scheduled_actions = [each for each in backend.scheduled_actions if _target_of(each) != target]
        return super().deregister_scalable_target()

    def put_scaling_policy(self) -> str:
        """As moto, which takes steps in any order and a policy of nothing, and gives a changed policy another ARN."""
        target, policies = self._target(), self.applicationautoscaling_backend.policies
        configuration: dict[str, Any] = self._get_param("StepScalingPolicyConfiguration") or {}
        steps: list[dict[str, float]] = configuration.get("StepAdjustments", [])
        if self._get_param("PolicyType") == "StepScaling" and not steps:
            raise AWSValidationException("At least one step adjustment must be specified for a step scaling policy")
        for step in steps:
            if step.get("MetricIntervalLowerBound", -math.inf) >= step.get("MetricIntervalUpperBound", math.inf):
                raise AWSValidationException("Lower bound of a step adjustment must be less than its upper bound")
        key = "\t".join((*target, self._get_param("PolicyName")))
        before = policies.get(key)
        answer = json.loads(super().put_scaling_policy())
        if before:
            policies[key].policy_arn = answer["PolicyARN"] = before.policy_arn
        return json.dumps(answer)

    def describe_scaling_policies(self) -> str:
        """As moto, which answers all policies whatever names were asked for."""
        answer, names = json.loads(super().describe_scaling_policies()), self._get_param("PolicyNames")
        found = [each for each in answer["ScalingPolicies"] if not names or each["PolicyName"] in names]
        return json.dumps(answer | {"ScalingPolicies": found})

    def delete_scaling_policy(self) -> str:
        """As moto, whose error is another."""
        if "\t".join((*self._key(), self._get_param("PolicyName"))) not in self.applicationautoscaling_backend.policies:
            raise ObjectNotFoundError("scaling policy")
        return super().delete_scaling_policy()

    def put_scheduled_action(self) -> str:
        """As moto, which takes any schedule, any time zone and bounds in any order."""
        self._target()
        schedule, timezone = str(self._get_param("Schedule")), self._get_param("Timezone")
        if not re.fullmatch(r"at\(\S+\)|rate\(\d+ \w+\)|cron\(\S+( \S+){5}\)", schedule):
            raise AWSValidationException(f"Invalid schedule expression: {schedule}")
        if timezone and timezone not in available_timezones():
            raise AWSValidationException(f"Invalid time zone: {timezone}")
        bounds: dict[str, int] = self._get_param("ScalableTargetAction") or {}
        _require_order(bounds.get("MinCapacity", 0), bounds.get("MaxCapacity", sys.maxsize))
        return super().put_scheduled_action()

    def delete_scheduled_action(self) -> str:
        """As moto, which deletes what is not there."""
        wanted = (self._key(), self._get_param("ScheduledActionName"))
        actions = self.applicationautoscaling_backend.scheduled_actions
        if wanted not in [(_target_of(each), each.scheduled_action_name) for each in actions]:
            raise ObjectNotFoundError("scheduled action")
        return super().delete_scheduled_action()

    def _key(self) -> tuple[str, str, str]:
        namespace, resource, dimension = map(self._get_param, ("ServiceNamespace", "ResourceId", "ScalableDimension"))
        return namespace, resource, dimension

    def _target(self) -> tuple[str, str, str]:
        """The target that the request names, which must be there."""
        key = self._key()
        if key[1] not in self.applicationautoscaling_backend.targets.get(key[2], {}):
            raise ObjectNotFoundError(f"scalable target {key[1]}")
        return key


def _target_of(each: FakeApplicationAutoscalingPolicy | FakeScheduledAction) -> tuple[str, str, str]:
    return each.service_namespace, each.resource_id, each.scalable_dimension


def _require_order(minimum: int, maximum: int) -> None:
    if minimum > maximum:
        raise AWSValidationException(f"Maximum capacity ({maximum}) cannot be less than minimum capacity ({minimum})")


def _create_app(service: SERVICE_NAMES) -> Flask:
    app = create_backend_app(service)

    def deny() -> tuple[str, HTTPStatus] | None:
        denied = Account.read(SageMaker.state).denied if service != "s3" else ()
        if not any(action.startswith(f"{service}:") for action in denied):
            return None
        form = parse_qs(request.get_data(as_text=True))
        name = request.headers.get("X-Amz-Target", "").rpartition(".")[2] or form.get("Action", [""])[0]
        if (action := f"{service}:{name}") not in denied:
            return None
        return _access_denied(action, form.get("RoleName", [""])[0])

    app.before_request(deny)

    def refuse(error: NotImplementedError) -> tuple[str, HTTPStatus]:
        message = f"<Code>NotImplemented</Code><Message>the local AWS does not have this action: {error}</Message>"
        # The form of IAM and others that speak XML; of those that speak JSON, clients show any text.
        return f"<ErrorResponse><Error>{message}</Error></ErrorResponse>", HTTPStatus.NOT_IMPLEMENTED

    app.register_error_handler(NotImplementedError, refuse)
    return app


def _access_denied(action: str, role: str) -> tuple[str, HTTPStatus]:
    """AWS's answer to who may not: https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html."""
    user = f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:user/local"
    resource = f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:role/{role}" if role else "*"
    message = (
        f"User: {user} is not authorized to perform: {action} on resource: {resource} "
        f"because no identity-based policy allows the {action} action"
    )
    if action.startswith("iam:"):
        error = f"<Type>Sender</Type><Code>AccessDenied</Code><Message>{message}</Message>"
        return f"<ErrorResponse><Error>{error}</Error></ErrorResponse>", HTTPStatus.FORBIDDEN
    return json.dumps({"__type": "AccessDeniedException", "message": message}), HTTPStatus.BAD_REQUEST


def _permission(self: FakeBucket, action: str, resource: str) -> PermissionResult:
    """Judge a request by the bucket's policy, leaving out statements with a Condition.

    moto applies those as if they had none: the one that denies requests without TLS would deny every request.
    """
    if self.policy is None:
        return PermissionResult.NEUTRAL
    policy = json.loads(self.policy)
    policy["Statement"] = [statement for statement in policy["Statement"] if "Condition" not in statement]
    return IAMPolicy(json.dumps(policy)).is_action_permitted(action, resource)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m localcloud.aws_emulator")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--state", type=Path, required=True, help="folder for model data, logs and records")
    parser.add_argument("--no-triton", action="store_true", help="endpoints are in service at once, and answer nothing")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
    os.environ |= {"MOTO_PORT": str(arguments.port), "MOTO_IAM_LOAD_MANAGED_POLICIES": "true"}
    sagemaker_urls.url_paths["{0}/$"] = SageMaker.dispatch
    autoscaling_urls.url_paths["{0}/$"] = ApplicationAutoScaling.dispatch
    runtime_urls.url_paths["{0}/endpoints/(?P<name>[^/]+)/invocations$"] = SageMakerRuntime.dispatch
    FakeBucket.get_permission = _permission
    SageMaker.state = arguments.state
    SageMaker.recommender = Recommender(arguments.state / "recommendations")
    session: Any = boto3.Session("local", "local", region_name="us-east-1")
    s3 = session.resource("s3", endpoint_url=f"http://{LOOPBACK}:{arguments.port}")
    SageMaker.processing = Processing(arguments.state, s3)
    if not arguments.no_triton:
        SageMaker.hosting = Hosting(arguments.state / "sagemaker", s3)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(0))
    try:
        application = DomainDispatcherApplication(_create_app)
        run_simple(LOOPBACK, arguments.port, application, threaded=True, request_handler=MotoRequestHandler)
    finally:
        SageMaker.processing.close()
        if SageMaker.hosting:
            SageMaker.hosting.close()


if __name__ == "__main__":
    _main()
