"""A restricted namespace with the Job that builds an engine."""

from pathlib import Path

import pulumi
import pulumi_kubernetes as kubernetes

from components.kubernetes.engine_build import EngineBuild
from model_repo.engine import EngineOrder

config = pulumi.Config()
inside = pulumi.ResourceOptions(provider=kubernetes.Provider("cluster", kubeconfig=config.require("kubeconfig")))
namespace = kubernetes.core.v1.Namespace(
    "engines", metadata={"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}, opts=inside
)
built = EngineBuild(
    "bert",
    {
        "order": EngineOrder.model_validate_json(Path("order.json").read_text()),
        "namespace": namespace.metadata["name"],
        "bucket": config.require("bucket"),
        "image": "nvcr.io/nvidia/tritonserver:25.09-py3",
        "onnx_size_bytes": 1_340_000_000,
        "google_service_account": "builder@project.iam.gserviceaccount.com",
    },
    inside,
)
pulumi.export("namespace", namespace.metadata["name"])
pulumi.export("digest", built.digest)
pulumi.export("uri", built.uri)
