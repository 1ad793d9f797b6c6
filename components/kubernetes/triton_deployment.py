"""Triton pods on T4 nodes, and their address."""

from typing import NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as kubernetes

HTTP_PORT = 8000
GRPC_PORT = 8001
METRICS_PORT = 8002

SERVICE_ACCOUNT = "triton"

# Seconds. When a pod goes, load balancers need the first to stop sending; Triton finishes what it holds in the
# second (its default); both fit into the grace period with a margin.
PRE_STOP_S = 10
EXIT_TIMEOUT_S = 30
GRACE_PERIOD_S = PRE_STOP_S + EXIT_TIMEOUT_S + 5


class TritonDeploymentArgs(TypedDict):
    """What the pods serve, and where clients find them."""

    namespace: str
    """Name of the namespace, which is made."""
    model_uri: pulumi.Input[str]
    """`gs://<bucket>/models/<name>/<digest>` of a model repository."""
    image: str
    http_port: int
    """Port of the load balancer for Triton's HTTP protocol, 1 to 65535."""
    grpc_port: int
    """Port of the load balancer for Triton's gRPC protocol, 1 to 65535."""
    google_service_account: NotRequired[pulumi.Input[str]]
    """E-mail of the account that may read the model's bucket (Workload Identity); left out where pods need none."""


class TritonDeployment(pulumi.ComponentResource):
    """One Triton a pod, one T4 a pod, one pod a node, behind an internal load balancer.

    It has no count: `TritonScaling` has, so that an update never resets it. Metrics have no address outside the
    cluster.
    """

    address: pulumi.Output[str]
    """IP address (or host name) of the load balancer."""
    name: pulumi.Output[str]
    """Name of the Deployment."""
    namespace: pulumi.Output[str]

    def __init__(self, name: str, args: TritonDeploymentArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:kubernetes:TritonDeployment", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        labels = {"app.kubernetes.io/name": "triton"}
        namespace = kubernetes.core.v1.Namespace(
            f"{name}-namespace",
            metadata={
                "name": args["namespace"],
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
            opts=child,
        )
        placed: kubernetes.meta.v1.ObjectMetaArgsDict = {"namespace": namespace.metadata.name, "labels": labels}
        identity: kubernetes.meta.v1.ObjectMetaArgsDict = {**placed, "name": SERVICE_ACCOUNT}
        if "google_service_account" in args:
            identity["annotations"] = {"iam.gke.io/gcp-service-account": args["google_service_account"]}
        account = kubernetes.core.v1.ServiceAccount(
            f"{name}-account",
            metadata=identity,
            automount_service_account_token=False,
            opts=child,
        )
        deployment = kubernetes.apps.v1.Deployment(
            f"{name}-deployment",
            metadata={**placed, "name": "triton"},
            spec={
                "selector": {"match_labels": labels},
                # A new pod needs a T4 of its own, which only the old one can give where none is spare.
                "strategy": {"type": "RollingUpdate", "rolling_update": {"max_surge": 0, "max_unavailable": 1}},
                "template": {"metadata": {"labels": labels}, "spec": _pod(args, account.metadata.name, labels)},
            },
            opts=child,
        )
        kubernetes.policy.v1.PodDisruptionBudget(
            f"{name}-budget",
            metadata={**placed, "name": "triton"},
            spec={"max_unavailable": 1, "selector": {"match_labels": labels}},
            opts=child,
        )
        service = kubernetes.core.v1.Service(
            f"{name}-service",
            metadata={
                **placed,
                "name": "triton",
                "annotations": {"networking.gke.io/load-balancer-type": "Internal"},
            },
            spec={
                "type": "LoadBalancer",
                "selector": labels,
                "ports": [
                    {"name": "http", "port": args["http_port"], "target_port": "http"},
                    {"name": "grpc", "port": args["grpc_port"], "target_port": "grpc"},
                ],
            },
            opts=pulumi.ResourceOptions(parent=self, depends_on=[deployment]),
        )
        self.address = service.status.load_balancer.ingress[0].apply(lambda ingress: ingress.ip or ingress.hostname)
        self.name = deployment.metadata.name
        self.namespace = namespace.metadata.name
        self.register_outputs({"address": self.address})


def _pod(
    args: TritonDeploymentArgs, service_account: pulumi.Input[str], labels: dict[str, str]
) -> kubernetes.core.v1.PodSpecArgsDict:
    """The pod: everything that Pod Security's `restricted` asks for, and a T4."""
    return {
        "service_account_name": service_account,
        "automount_service_account_token": False,
        "termination_grace_period_seconds": GRACE_PERIOD_S,
        "security_context": {
            "run_as_non_root": True,
            # triton-server, the image's own user
            "run_as_user": 1000,
            "fs_group": 1000,
            "seccomp_profile": {"type": "RuntimeDefault"},
        },
        "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "topology_spread_constraints": [
            {
                "max_skew": 1,
                "topology_key": "topology.kubernetes.io/zone",
                "when_unsatisfiable": "ScheduleAnyway",
                "label_selector": {"match_labels": labels},
            }
        ],
        "containers": [_container(args)],
        "volumes": [
            {"name": "tmp", "empty_dir": {}},
            # Triton's Python backend passes tensors through shared memory; a container's default is 64 MiB.
            {"name": "shm", "empty_dir": {"medium": "Memory", "size_limit": "1Gi"}},
        ],
    }


def _container(args: TritonDeploymentArgs) -> kubernetes.core.v1.ContainerArgsDict:
    def ready(path: str, period_s: int, failures: int) -> kubernetes.core.v1.ProbeArgsDict:
        return {
            "http_get": {"path": path, "port": "http"},
            "period_seconds": period_s,
            "failure_threshold": failures,
            "timeout_seconds": 5,
        }

    return {
        "name": "triton",
        "image": args["image"],
        "command": ["tritonserver"],
        "args": [
            pulumi.Output.format("--model-repository={}", args["model_uri"]),
            f"--http-port={HTTP_PORT}",
            f"--grpc-port={GRPC_PORT}",
            f"--metrics-port={METRICS_PORT}",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            # The repository says what it needs: a guess at its configuration is never served.
            "--disable-auto-complete-config",
        ],
        "ports": [
            {"name": "http", "container_port": HTTP_PORT},
            {"name": "grpc", "container_port": GRPC_PORT},
            {"name": "metrics", "container_port": METRICS_PORT},
        ],
        # Ten minutes for a model to be read and loaded; Triton answers 400 until then.
        "startup_probe": ready("/v2/health/ready", 10, 60),
        "readiness_probe": ready("/v2/health/ready", 5, 3),
        "liveness_probe": ready("/v2/health/live", 10, 3),
        "lifecycle": {"pre_stop": {"sleep": {"seconds": PRE_STOP_S}}},
        # Fits the smallest machine, n1-standard-4; a whole T4, which pods cannot share.
        "resources": {
            "requests": {"cpu": "2", "memory": "8Gi"},
            "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"},
        },
        "security_context": {
            "allow_privilege_escalation": False,
            "read_only_root_filesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volume_mounts": [{"name": "tmp", "mount_path": "/tmp"}, {"name": "shm", "mount_path": "/dev/shm"}],  # noqa: S108
    }
