"""The SageMaker processing job that builds an engine, and what stands before and after it in the model store.

Nothing here knows Pulumi: the engine build's dynamic resource calls it.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.exceptions import ClientError
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

import model_repo.engine_job
from model_repo.engine_job.compile import ENGINE_NAME, MESSAGE_VARIABLE, RECORD_NAME
from model_repo.engine_job.layout import MANIFEST_NAME, repository_digest, repository_files
from model_repo.engine_job.lease import Lease, lease_path, pointer_path, take_lease
from model_repo.manifest import repository_prefix

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_sagemaker import SageMakerClient

INSTANCE_TYPE: Final = "ml.g4dn.xlarge"
"""The smallest with a T4."""

MAX_RUNTIME_S: Final = 2 * 3600
"""SageMaker stops a job that takes longer; BERT-large with a profile up to 128 rows takes half an hour or so."""

# Beyond the job's own runtime: the instance starts, and what it has made is uploaded.
_MARGIN_S: Final = 1800
_MAX_POLL_S: Final = 15.0

_VOLUME_GB: Final = 30

# A new role is known to IAM at once and to SageMaker some seconds later: https://github.com/pulumi/pulumi-aws/issues/2411
_ROLE_SECONDS: Final = 60

# https://docs.aws.amazon.com/sagemaker/latest/dg/build-your-own-processing-container.html
_CONTAINER: Final = "/opt/ml/processing"
_MESSAGE_FILE: Final = "/opt/ml/output/message"

_CONSOLES: Final = {"aws-cn": "console.amazonaws.cn", "aws-us-gov": "console.amazonaws-us-gov.com"}


class EngineBuildError(RuntimeError):
    """An engine that was not built: why, and where the log is."""


@dataclass(frozen=True)
class EngineRequest:
    """One engine that is wanted in one model store."""

    order: dict[str, Any]
    """An ``EngineOrder`` as JSON."""
    region: str
    bucket: str
    source_uri: str
    """`s3://…` of the ONNX file with its samples, without a slash at its end."""
    image: str
    role_arn: str


class S3Store:
    """A bucket whose objects are written under a condition."""

    def __init__(self, client: "S3Client", bucket: str) -> None:
        self._client, self._bucket = client, bucket

    def read(self, path: str) -> tuple[bytes, str] | None:
        """An object's content and its ETag; None where there is none."""
        try:
            found = self._client.get_object(Bucket=self._bucket, Key=path)
        except self._client.exceptions.NoSuchKey:
            return None
        return found["Body"].read(), found["ETag"]

    def write(self, path: str, content: bytes, tag: str | None) -> bool:
        """Write an object over the version with ETag ``tag``, None for over nothing; False where another came first.

        https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html: a version that was removed
        meanwhile is NoSuchKey, a write at the same moment ConditionalRequestConflict.
        """
        try:
            if tag is None:
                self._client.put_object(Bucket=self._bucket, Key=path, Body=content, IfNoneMatch="*")
            else:
                self._client.put_object(Bucket=self._bucket, Key=path, Body=content, IfMatch=tag)
        except ClientError as error:
            if _code_of(error) in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
                return False
            raise
        return True


class EngineJob:
    """What is done for one request.

    Args:
        request: The engine that is wanted.
        report: Takes a line of progress.
    """

    def __init__(self, request: EngineRequest, report: Callable[[str], None]) -> None:
        self._request, self._report = request, report
        self._key: str = request.order["key"]
        session: Any = boto3.Session(region_name=request.region)
        self._console = _CONSOLES.get(session.get_partition_for_region(request.region), "console.aws.amazon.com")
        self._s3: S3Client = session.client("s3")
        self._sagemaker: SageMakerClient = session.client("sagemaker")
        self._store = S3Store(self._s3, request.bucket)

    def is_built(self) -> bool:
        """Whether the store has the engine."""
        return self._store.read(pointer_path(self._key)) is not None

    def run(self) -> str:
        """Build the engine unless the store has it, and publish the repository around it; return its digest.

        Whoever wants an engine that is being built waits for that same job and publishes what it makes: an update
        that was interrupted goes on from where it was when it is run again.

        Raises:
            EngineBuildError: The job failed, or was stopped.
        """
        pointer = self._store.read(pointer_path(self._key))
        record: dict[str, Any] = json.loads(pointer[0]) if pointer else self._build()
        return self._publish(record)

    def _build(self) -> dict[str, Any]:
        mine = Lease(self._next_name(), time.time() + MAX_RUNTIME_S + _MARGIN_S)
        lease = take_lease(self._store, self._key, mine)
        self._start(lease.job)
        description = self._wait(lease)
        if description["ProcessingJobStatus"] != "Completed":
            self._clean_up(lease)
            reason = description.get("ExitMessage") or description.get("FailureReason") or "it gave no reason"
            raise EngineBuildError(
                f"engine {self._key[:12]}: {lease.job} {description['ProcessingJobStatus'].lower()}: {reason}; "
                f"log: {self._log_url(lease.job)}"
            )
        output = f"builds/{lease.job}/output"
        made = self._store.read(f"{output}/{RECORD_NAME}")
        if made is None:
            self._clean_up(lease)
            raise EngineBuildError(f"{lease.job} completed without {output}/{RECORD_NAME}; run it again")
        record = {**json.loads(made[0]), "location": f"{output}/{ENGINE_NAME}"}
        self._store.write(pointer_path(self._key), json.dumps(record).encode(), None)
        self._s3.delete_object(Bucket=self._request.bucket, Key=lease_path(self._key))
        return record

    def _next_name(self) -> str:
        """A job's name is used once for all time: the number of the attempt is in it."""
        prefix = f"triton-engine-{self._key[:16]}-"
        pages = self._sagemaker.get_paginator("list_processing_jobs").paginate(NameContains=prefix)
        return f"{prefix}{1 + sum(len(page['ProcessingJobSummaries']) for page in pages)}"

    def _start(self, job: str) -> None:
        """Start the job of a lease, unless it was started before: by another, or by us before an interrupt."""
        inputs = f"builds/{job}/input"
        for path, content in _code(self._request.order).items():
            self._store.write(f"{inputs}/{path}", content, None)
        try:
            self._create(job, inputs)
        except self._sagemaker.exceptions.ResourceInUse:
            self._report(f"engine {self._key[:12]}: {job} runs already; waiting for it")
        else:
            self._report(f"engine {self._key[:12]}: started {job} on {INSTANCE_TYPE}; log: {self._log_url(job)}")

    @retry(
        retry=retry_if_exception(lambda error: isinstance(error, ClientError) and "assume role" in str(error)),
        wait=wait_fixed(2),
        stop=stop_after_delay(_ROLE_SECONDS),
        reraise=True,
    )
    def _create(self, job: str, inputs: str) -> None:
        request = self._request
        self._sagemaker.create_processing_job(
            ProcessingJobName=job,
            RoleArn=request.role_arn,
            AppSpecification={
                "ImageUri": request.image,
                "ContainerEntrypoint": ["python3", "-m", "model_repo.engine_job.compile"],
                "ContainerArguments": [
                    f"{_CONTAINER}/{name}" for name in ("input/order.json", "source", "work", "output")
                ],
            },
            Environment={"PYTHONPATH": f"{_CONTAINER}/input", MESSAGE_VARIABLE: _MESSAGE_FILE},
            ProcessingInputs=[
                {
                    "InputName": name,
                    "S3Input": {
                        "S3Uri": uri,
                        "LocalPath": f"{_CONTAINER}/{name}",
                        "S3DataType": "S3Prefix",
                        "S3InputMode": "File",
                    },
                }
                for name, uri in (("source", f"{request.source_uri}/"), ("input", f"s3://{request.bucket}/{inputs}/"))
            ],
            ProcessingOutputConfig={
                "Outputs": [
                    {
                        "OutputName": "engine",
                        "S3Output": {
                            "S3Uri": f"s3://{request.bucket}/builds/{job}/output",
                            "LocalPath": f"{_CONTAINER}/output",
                            "S3UploadMode": "EndOfJob",
                        },
                    }
                ]
            },
            ProcessingResources={
                "ClusterConfig": {
                    "InstanceCount": 1,
                    "InstanceType": INSTANCE_TYPE,
                    "VolumeSizeInGB": _VOLUME_GB,
                }
            },
            StoppingCondition={"MaxRuntimeInSeconds": MAX_RUNTIME_S},
            # trtexec needs no network: SageMaker itself brings the files and takes them away.
            NetworkConfig={"EnableNetworkIsolation": True},
        )

    def _wait(self, lease: Lease) -> dict[str, Any]:
        """The job's description once it has ended; one that outlives its lease is stopped."""
        started, poll_s = time.monotonic(), 0.5
        while True:
            description: dict[str, Any] = {**self._sagemaker.describe_processing_job(ProcessingJobName=lease.job)}
            status = description["ProcessingJobStatus"]
            if status not in ("InProgress", "Stopping"):
                return description
            if time.time() > lease.expires_at and status == "InProgress":
                self._sagemaker.stop_processing_job(ProcessingJobName=lease.job)
            time.sleep(poll_s)
            poll_s = min(2 * poll_s, _MAX_POLL_S)
            self._report(f"engine {self._key[:12]}: {lease.job}: {status}, {time.monotonic() - started:.0f} s")

    def _clean_up(self, lease: Lease) -> None:
        """Remove what a failed job has left, and its lease: the next attempt starts at once."""
        bucket = self._request.bucket
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"builds/{lease.job}/")
        for page in pages:
            for entry in page.get("Contents", []):
                self._s3.delete_object(Bucket=bucket, Key=entry.get("Key", ""))
        held = self._store.read(lease_path(self._key))
        if held and json.loads(held[0])["job"] == lease.job:
            self._s3.delete_object(Bucket=bucket, Key=lease_path(self._key))

    def _publish(self, record: dict[str, Any]) -> str:
        """Put the engine and its repository where a model is served from, the manifest last."""
        order, bucket = self._request.order, self._request.bucket
        files = repository_files(order, record)
        digest = repository_digest(files)
        prefix = repository_prefix(order["manifest"]["name"], digest)
        if self._store.read(f"{prefix}/{MANIFEST_NAME}") is None:  # written last: one that is there is whole
            location: str = record["location"]
            self._s3.copy({"Bucket": bucket, "Key": location}, bucket, f"{prefix}/{order['engine_path']}")
            for path, content in files.items():
                self._store.write(f"{prefix}/{path}", content, None)
        return digest

    def _log_url(self, job: str) -> str:
        region = self._request.region
        # The console encodes a group's name twice and writes $ for %.
        group = "$252Faws$252Fsagemaker$252FProcessingJobs"
        return (
            f"https://{region}.{self._console}/cloudwatch/home?region={region}#logsV2:log-groups/log-group/{group}"
            f"$3FlogStreamNameFilter$3D{job}"
        )


def _code(order: dict[str, Any]) -> dict[str, bytes]:
    """What the container runs, by path: the job's package and its order."""
    package = Path(model_repo.engine_job.__file__).parent
    files = {f"model_repo/engine_job/{path.name}": path.read_bytes() for path in sorted(package.glob("*.py"))}
    return {"model_repo/__init__.py": b"", **files, "order.json": json.dumps(order).encode()}


def _code_of(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")
