"""A TensorRT engine, built on a T4 node of a Kubernetes cluster and published as a model repository."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider

import model_repo.engine_job
from model_repo.engine import EngineOrder
from model_repo.engine_job.compile import MESSAGE_VARIABLE
from model_repo.engine_job.layout import repository_digest, repository_files
from model_repo.engine_job.lease import pointer_path
from model_repo.manifest import repository_prefix

SERVICE_ACCOUNT = "engine-build"
"""Kubernetes service account of the Job: what a Workload Identity binding names."""

MAX_RUNTIME_S = 2 * 3600
"""Kubernetes stops a Job that takes longer, waiting for a T4 node included."""

# A lease outlives the Job that holds it: what is still running is never taken over.
_LEASE_S = MAX_RUNTIME_S + 600

_RETRIES = 2

# For reading what a Job has said: it is no longer needed once the engine is published.
_KEPT_S = 24 * 3600

_CODE = "/opt/engine-job"
_PACKAGE_PATH = f"{_CODE}/model_repo/engine_job"
_ORDER = f"{_PACKAGE_PATH}/order.json"
_WORK = "/work"

_PACKAGE = Path(model_repo.engine_job.__file__).parent


class EngineBuildArgs(TypedDict):
    """Which engine, and where it is built."""

    order: EngineOrder
    """What is built; its key decides whether it is."""
    namespace: pulumi.Input[str]
    """An existing namespace; one under Pod Security's `restricted` will do."""
    bucket: pulumi.Input[str]
    """Name of the model store's bucket; it holds the order's `source_prefix`."""
    image: str
    """Triton's own image of the order's release: it has `trtexec`, and Python for the rest."""
    onnx_size_bytes: int
    """Size of the ONNX file, which decides how much disk the pod asks for."""
    google_service_account: NotRequired[pulumi.Input[str]]
    """E-mail of the account that may read, write and delete in the bucket (`roles/storage.objectUser`, bound to
    `SERVICE_ACCOUNT` by Workload Identity); left out where pods need none."""


class EngineBuild(pulumi.ComponentResource):
    """A Job on a T4 node: fetch the ONNX file, build and check the engine, publish the repository.

    An engine that the store has is not built again: the Job then only publishes the repository around it. Of several
    Jobs that want the same engine one builds, the others wait. Every step runs in the one image, whose bytes the node
    has from Triton; only the build has the GPU. The update waits for the Job. It makes no bucket and no identity.
    """

    digest: pulumi.Output[str]
    """Digest of the repository; unknown in a preview of one that is yet to be published."""
    uri: pulumi.Output[str]
    """`gs://…` of the repository, without a slash at its end, known once all of it is there."""

    def __init__(self, name: str, args: EngineBuildArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:kubernetes:EngineBuild", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        order, labels = args["order"], {"app.kubernetes.io/name": "engine-build"}
        placed: kubernetes.meta.v1.ObjectMetaArgsDict = {"namespace": args["namespace"], "labels": labels}
        code = kubernetes.core.v1.ConfigMap(
            f"{name}-code",
            metadata=placed,
            immutable=True,
            data={
                "order.json": order.model_dump_json(),
                **{path.name: path.read_text(encoding="utf-8") for path in sorted(_PACKAGE.glob("*.py"))},
            },
            opts=child,
        )
        identity: kubernetes.meta.v1.ObjectMetaArgsDict = {**placed, "name": SERVICE_ACCOUNT}
        if "google_service_account" in args:
            identity["annotations"] = {"iam.gke.io/gcp-service-account": args["google_service_account"]}
        account = kubernetes.core.v1.ServiceAccount(
            f"{name}-account", metadata=identity, automount_service_account_token=False, opts=child
        )
        job = kubernetes.batch.v1.Job(
            f"{name}-job",
            metadata={**placed, "annotations": {"pulumi.com/timeoutSeconds": str(MAX_RUNTIME_S)}},
            spec={
                "backoff_limit": _RETRIES,
                "active_deadline_seconds": MAX_RUNTIME_S,
                "ttl_seconds_after_finished": _KEPT_S,
                "template": {
                    "metadata": {"labels": labels},
                    "spec": _pod(args, code.metadata.name, account.metadata.name),
                },
            },
            opts=child,
        )
        engine = _Engine(
            f"{name}-engine",
            # Of the Job, to wait for its end; the order as text, for numbers would become floats on their way.
            {"order": order.model_dump_json(), "bucket": args["bucket"], "job": job.id, "digest": None},
            child,
        )
        self.digest = engine.digest
        self.uri = pulumi.Output.all(args["bucket"], engine.digest).apply(
            lambda values: f"gs://{values[0]}/{repository_prefix(order.manifest['name'], values[1])}"
        )
        self.register_outputs({"digest": self.digest, "uri": self.uri})


class _Provider(ResourceProvider):
    """Reads what the Job has left. Pulumi stores it with the resource: it holds nothing."""

    serialize_as_secret_always = False

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        replaces = [name for name in ("order", "bucket", "job") if olds.get(name) != news.get(name)]
        return DiffResult(changes=bool(replaces), replaces=replaces)

    def create(self, props: dict[str, Any]) -> CreateResult:
        from model_repo.store import StoreError, open_store  # noqa: PLC0415

        sys.tracebacklimit = 0  # Pulumi prints the traceback of what a provider raises; here the text says all
        order, store = json.loads(props["order"]), open_store(f"gs://{props['bucket']}")
        pointer = store.get(pointer_path(order["key"]))
        if pointer is None:
            missing = f"{store.url}/{pointer_path(order['key'])}"
            raise StoreError(f"{missing}: the Job has not left it: delete the Job, and `pulumi up` again")
        digest = repository_digest(repository_files(order, json.loads(pointer)))
        return CreateResult(digest, {**props, "digest": digest})


class _Engine(Resource, module="triton-stack", name="EngineRecord"):
    digest: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(_Provider(), name, props, opts)


def _pod(
    args: EngineBuildArgs, code: pulumi.Input[str], account: pulumi.Input[str]
) -> kubernetes.core.v1.PodSpecArgsDict:
    """The pod: everything that Pod Security's `restricted` asks for, and a T4."""
    fetch = ["on_gke", "fetch", _ORDER, args["bucket"], _WORK, "$(JOB)", str(_LEASE_S)]
    compile_ = ["compile", _ORDER, f"{_WORK}/source", f"{_WORK}/compile", f"{_WORK}/target"]
    publish = ["on_gke", "publish", _ORDER, args["bucket"], _WORK]
    # The ONNX file, the engine twice (at most as large each) and the timing cache.
    scratch = f"{4 * args['onnx_size_bytes'] // 2**30 + 1}Gi"
    return {
        # A step that fails is run again where the files are.
        "restart_policy": "OnFailure",
        "service_account_name": account,
        "automount_service_account_token": False,
        "security_context": {
            "run_as_non_root": True,
            "run_as_user": 1000,
            "fs_group": 1000,
            "seccomp_profile": {"type": "RuntimeDefault"},
        },
        "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "init_containers": [
            _container(args, "fetch", fetch, gpu=False),
            _container(args, "compile", compile_, gpu=True),
        ],
        "containers": [_container(args, "publish", publish, gpu=False)],
        "volumes": [
            {"name": "code", "config_map": {"name": code}},
            {"name": "work", "empty_dir": {"size_limit": scratch}},
            {"name": "tmp", "empty_dir": {}},
        ],
    }


def _container(
    args: EngineBuildArgs, name: str, arguments: Sequence[pulumi.Input[str]], *, gpu: bool
) -> kubernetes.core.v1.ContainerArgsDict:
    module, *rest = arguments
    environment: list[kubernetes.core.v1.EnvVarArgsDict] = [
        {"name": "PYTHONPATH", "value": _CODE},
        # Who holds the lease: the Job, whichever of its pods asks, and no Job of another cluster.
        {
            "name": "JOB",
            "value_from": {"field_ref": {"field_path": "metadata.labels['batch.kubernetes.io/controller-uid']"}},
        },
        {"name": MESSAGE_VARIABLE, "value": "/dev/termination-log"},
    ]
    limits = {"memory": "10Gi", **({"nvidia.com/gpu": "1"} if gpu else {})}
    return {
        "name": name,
        "image": args["image"],
        "command": ["python3", "-m", f"model_repo.engine_job.{module}", *rest],
        "env": environment,
        # Fits the smallest machine, n1-standard-4: trtexec parses the ONNX file and holds its weights.
        "resources": {"requests": {"cpu": "2", "memory": "10Gi"}, "limits": limits},
        "security_context": {
            "allow_privilege_escalation": False,
            "read_only_root_filesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volume_mounts": [
            {"name": "code", "mount_path": _PACKAGE_PATH, "read_only": True},
            {"name": "work", "mount_path": _WORK},
            {"name": "tmp", "mount_path": "/tmp"},  # noqa: S108
        ],
    }
