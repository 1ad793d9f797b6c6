"""AWS on loopback: moto's server, with the actions that this stack needs and moto lacks.

Run as ``python -m localcloud.aws_emulator --port PORT --state FOLDER``. Added here, in memory as all of moto's:

- SageMaker: UpdateEndpoint, LastDeploymentConfig, refusal of duplicates, real hosting (:mod:`localcloud.hosting`), and
  Inference Recommender jobs. Such a job measures nothing here: it stays IN_PROGRESS until its results are handed in as
  ``<state>/recommendations/<job>.json``, a list of the API's ``InferenceRecommendation``.
- SageMaker Runtime: InvokeEndpoint, answered by the Triton behind the endpoint.
- Application Auto Scaling: a target must name an existing endpoint variant, and keeps its tags.
- S3: a bucket policy's conditional statements are left out, where moto applies them without their condition.
- An action that nobody implements answers 501, which SDKs do not retry, where moto answers 500, which they do.
"""

import argparse
import json
import logging
import os
import signal
import sys
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar

import boto3
from flask import Flask, request
from moto.applicationautoscaling import urls as autoscaling_urls
from moto.applicationautoscaling.exceptions import AWSValidationException
from moto.applicationautoscaling.responses import ApplicationAutoScalingResponse
from moto.backends import SERVICE_NAMES
from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult, EmptyResult
from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import FakeBucket
from moto.sagemaker import urls as sagemaker_urls
from moto.sagemaker.exceptions import ResourceInUseException, ResourceNotFound, ValidationError
from moto.sagemaker.models import FakeEndpoint, sagemaker_backends
from moto.sagemaker.responses import SageMakerResponse
from moto.sagemakerruntime import urls as runtime_urls
from moto.sagemakerruntime.responses import SageMakerRuntimeResponse
from werkzeug.serving import run_simple

from localcloud.hosting import Container, Hosting, HostingError
from localcloud.pod import LOOPBACK

_STARTUP_SECONDS = 300


class SageMaker(SageMakerResponse):
    """SageMaker's control plane. Actions are methods, named and answered as moto does it."""

    hosting: ClassVar[Hosting | None] = None
    """None: endpoints are in service at once, and nothing runs."""
    state: ClassVar[Path]
    jobs: ClassVar[dict[str, dict[str, Any]]] = {}
    """Inference Recommender jobs by name, in the form in which the API describes them."""

    def create_model(self) -> ActionResult:
        """As moto, which accepts duplicates and forgets network isolation."""
        name = self._get_param("ModelName")
        self._refuse_duplicate("model", name, self.sagemaker_backend._models)  # pyright: ignore[reportPrivateUsage]
        result = super().create_model()
        model: Any = self.sagemaker_backend.describe_model(name)
        model.enable_network_isolation = bool(self._get_param("EnableNetworkIsolation"))
        model.vpc_config = self._get_param("VpcConfig")
        return result

    def create_endpoint_config(self) -> ActionResult:
        """As moto, which accepts duplicates."""
        name = self._get_param("EndpointConfigName")
        self._refuse_duplicate("endpoint-config", name, self.sagemaker_backend.endpoint_configs)
        return super().create_endpoint_config()

    def create_endpoint(self) -> ActionResult:
        """As moto, and put its model into service."""
        name, config_name = self._get_param("EndpointName"), self._get_param("EndpointConfigName")
        self._refuse_duplicate("endpoint", name, self.sagemaker_backend.endpoints)
        container = self._container(name, config_name)
        result = super().create_endpoint()
        endpoint = self.sagemaker_backend.endpoints[name]
        vars(endpoint)["last_deployment_config"] = self._get_param("DeploymentConfig")
        self._host(endpoint, container, "Creating", endpoint.production_variants)
        return result

    def update_endpoint(self) -> ActionResult:
        """Move an endpoint to another configuration; it goes on serving the old one until the new one answers."""
        name, config_name = self._get_param("EndpointName"), self._get_param("EndpointConfigName")
        self.sagemaker_backend.describe_endpoint(name)  # raises what SageMaker answers when there is none
        container = self._container(name, config_name)
        endpoint = self.sagemaker_backend.endpoints[name]
        if endpoint.endpoint_status not in ("InService", "Failed"):
            raise ValidationError(f'Cannot update in-progress endpoint "{endpoint.arn}".')
        configured = self.sagemaker_backend.describe_endpoint_config(config_name)["ProductionVariants"]
        variants = FakeEndpoint._process_production_variants(endpoint, configured)  # pyright: ignore[reportPrivateUsage]
        if not self._get_param("RetainDeploymentConfig"):
            vars(endpoint)["last_deployment_config"] = self._get_param("DeploymentConfig")
        self._host(endpoint, container, "Updating", variants)
        return ActionResult({"EndpointArn": endpoint.arn})

    def delete_endpoint(self) -> ActionResult:
        """As moto, and stop what serves it."""
        result = super().delete_endpoint()
        if self.hosting:
            self.hosting.delete(self._get_param("EndpointName"))
        return result

    def create_inference_recommendations_job(self) -> ActionResult:
        """Record a job."""
        name = self._get_param("JobName")
        if name in self.jobs:
            raise ResourceInUseException(f"Job {name} already exists")
        now = datetime.now(UTC)
        arn = f"arn:aws:sagemaker:{self.region}:{self.current_account}:inference-recommendations-job/{name}"
        given = ("JobType", "JobDescription", "RoleArn", "InputConfig", "StoppingConditions")
        job = {key: self._get_param(key) for key in given if self._get_param(key) is not None}
        times = {"CreationTime": now, "LastModifiedTime": now}
        self.jobs[name] = {"JobName": name, "JobArn": arn, "Status": "IN_PROGRESS", **times, **job}
        return ActionResult({"JobArn": arn})

    def describe_inference_recommendations_job(self) -> ActionResult:
        """Describe a job, with the results that were handed in."""
        return ActionResult(self._job())

    def list_inference_recommendations_jobs(self) -> ActionResult:
        """List all jobs, in one page."""
        jobs = [{"JobDescription": "", **self._job(name)} for name in self.jobs]
        return ActionResult({"InferenceRecommendationsJobs": jobs})

    def list_inference_recommendations_job_steps(self) -> ActionResult:
        """List one benchmark for each result that was handed in."""
        job = self._job()
        step = {"StepType": "BENCHMARK", "JobName": job["JobName"], "Status": job["Status"]}
        keys = ("Metrics", "EndpointConfiguration", "ModelConfiguration")
        results: list[dict[str, Any]] = job.get("InferenceRecommendations", [])
        steps = [{**step, "InferenceBenchmark": {key: one[key] for key in keys if key in one}} for one in results]
        return ActionResult({"Steps": steps})

    def stop_inference_recommendations_job(self) -> ActionResult:
        """Stop a job that has no results yet."""
        job = self._job()
        if job["Status"] != "IN_PROGRESS":
            raise ValidationError(f"Job {job['JobName']} is {job['Status']}: only one in progress can be stopped")
        job.update(Status="STOPPED", LastModifiedTime=datetime.now(UTC))
        return EmptyResult()

    def _job(self, name: str | None = None) -> dict[str, Any]:
        name = name or str(self._get_param("JobName"))
        if name not in self.jobs:
            raise ResourceNotFound(f"Could not find inference recommendations job {name}")
        job, results = self.jobs[name], self.state / "recommendations" / f"{name}.json"
        if job["Status"] == "IN_PROGRESS" and results.exists():
            now = datetime.now(UTC)
            job.update(Status="COMPLETED", CompletionTime=now, LastModifiedTime=now)
            job["InferenceRecommendations"] = json.loads(results.read_bytes())
        return job

    def _refuse_duplicate(self, kind: str, name: str, existing: dict[str, Any]) -> None:
        if name in existing:
            arn = f"arn:aws:sagemaker:{self.region}:{self.current_account}:{kind}/{name}"
            raise ValidationError(f'Cannot create already existing {kind} "{arn}".')

    def _host(self, endpoint: FakeEndpoint, container: Container, status: str, variants: list[dict[str, Any]]) -> None:
        """Bring the endpoint to ``container`` and, once that serves, to its ``variants``."""

        def settled(failure: str | None) -> None:
            if failure is None:
                endpoint.endpoint_config_name, endpoint.production_variants = container.config, variants
            vars(endpoint)["failure_reason"] = failure
            serves = failure is None or (self.hosting and self.hosting.serves(container.endpoint))
            endpoint.endpoint_status = "InService" if serves else "Failed"
            endpoint.last_modified_time = datetime.now(UTC)

        vars(endpoint)["failure_reason"] = None
        endpoint.endpoint_status = status
        if self.hosting:
            self.hosting.deploy(container, settled)
        else:
            settled(None)

    def _container(self, endpoint: str, config_name: str) -> Container:
        config = self.sagemaker_backend.describe_endpoint_config(config_name)
        variants: list[dict[str, Any]] = config["ProductionVariants"]
        if len(variants) > 1:
            raise ValidationError(
                f"{config_name} has {len(variants)} production variants; the local SageMaker hosts one"
            )
        variant = variants[0]
        model = self.sagemaker_backend.describe_model(variant["ModelName"])
        definition: dict[str, Any] = model.primary_container or {}
        source = definition.get("ModelDataSource", {}).get("S3DataSource", {})
        return Container(
            endpoint=endpoint,
            config=config_name,
            variant=variant["VariantName"],
            s3_uri=source.get("S3Uri") or definition.get("ModelDataUrl", ""),
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
        except HostingError as error:
            return self._model_error(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        if status != HTTPStatus.OK:
            return self._model_error(status, body.decode(errors="replace"))
        received = {key: value for key, value in answer.items() if key.lower().startswith(("content-type", "x-amzn-"))}
        return HTTPStatus.OK, {**received, "x-Amzn-Invoked-Production-Variant": variant}, body

    def _model_error(self, status: int, text: str) -> tuple[int, dict[str, str], str]:
        message = f'Received server error ({status}) from primary with message "{text}"'
        body = {"Message": message, "OriginalStatusCode": status, "OriginalMessage": text}
        headers = {"x-amzn-ErrorType": "ModelError", "Content-Type": "application/json"}
        return (
            HTTPStatus.FAILED_DEPENDENCY,
            {**headers, "status": str(int(HTTPStatus.FAILED_DEPENDENCY))},
            json.dumps(body),
        )


class ApplicationAutoScaling(ApplicationAutoScalingResponse):
    """Application Auto Scaling, which refuses what cannot be scaled."""

    tags: ClassVar[dict[str, dict[str, str]]] = {}
    """Tags by scalable target's ARN."""

    def register_scalable_target(self) -> str:
        """As moto, which checks neither the bounds nor that the variant exists, and drops the tags."""
        minimum, maximum = self._get_int_param("MinCapacity"), self._get_int_param("MaxCapacity")
        if minimum is not None and maximum is not None and minimum > maximum:
            raise AWSValidationException(
                f"Maximum capacity ({maximum}) cannot be less than minimum capacity ({minimum})"
            )
        resource = str(self._get_param("ResourceId"))
        if self._get_param("ServiceNamespace") == "sagemaker" and not self._variant_exists(resource):
            raise AWSValidationException(
                f"The resource {resource} does not exist: no endpoint in service has that variant"
            )
        response = super().register_scalable_target()
        self.tags.setdefault(json.loads(response)["ScalableTargetARN"], {}).update(self._get_param("Tags") or {})
        return response

    def list_tags_for_resource(self) -> str:
        """The tags of a scalable target."""
        arn = self._get_param("ResourceARN")
        if arn not in self.tags:
            raise JsonRESTError("ResourceNotFoundException", f"The resource {arn} does not exist")
        return json.dumps({"Tags": self.tags[arn]})

    def _variant_exists(self, resource: str) -> bool:
        match resource.split("/"):
            case ["endpoint", name, "variant", variant]:
                endpoint = sagemaker_backends[self.current_account][self.region].endpoints.get(name)
                return endpoint is not None and any(
                    one["VariantName"] == variant for one in endpoint.production_variants
                )
            case _:
                return False


def _create_app(service: SERVICE_NAMES) -> Flask:
    app = create_backend_app(service)

    def refuse(error: NotImplementedError) -> tuple[dict[str, str] | str, HTTPStatus]:
        code, message = "NotImplemented", f"the local AWS does not have this action: {error}"
        if request.mimetype == "application/x-www-form-urlencoded":  # IAM and others speak XML
            error_xml = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            return f"<ErrorResponse>{error_xml}</ErrorResponse>", HTTPStatus.NOT_IMPLEMENTED
        return {"__type": code, "message": message}, HTTPStatus.NOT_IMPLEMENTED

    app.register_error_handler(NotImplementedError, refuse)
    return app


def _end(*_: object) -> None:
    sys.exit(0)


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
    if not arguments.no_triton:
        session: Any = boto3.Session("local", "local", region_name="us-east-1")
        s3 = session.resource("s3", endpoint_url=f"http://{LOOPBACK}:{arguments.port}")
        SageMaker.hosting = Hosting(arguments.state / "sagemaker", s3)
    signal.signal(signal.SIGTERM, _end)
    try:
        application = DomainDispatcherApplication(_create_app)
        run_simple(LOOPBACK, arguments.port, application, threaded=True, request_handler=MotoRequestHandler)
    finally:
        if SageMaker.hosting:
            SageMaker.hosting.close()


if __name__ == "__main__":
    _main()
