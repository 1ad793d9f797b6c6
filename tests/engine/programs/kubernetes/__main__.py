"""A Triton-like Deployment with its Service and autoscaler; settings change one thing each."""

from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

config = pulumi.Config()
provider = kubernetes.Provider("cluster", kubeconfig=config.get("kubeconfig"))
here = pulumi.ResourceOptions(provider=provider)
labels = {"app": config.get("app") or "triton"}

namespace = kubernetes.core.v1.Namespace("serving", opts=here)
place: Any = {"namespace": namespace.metadata["name"]}
account = kubernetes.core.v1.ServiceAccount("account", metadata=place, opts=here)
secret = kubernetes.core.v1.Secret("token", metadata=place, string_data={"token": "opensesame"}, opts=here)
deployment = kubernetes.apps.v1.Deployment(
    "triton",
    metadata=place | {"annotations": {"pulumi.com/timeoutSeconds": config.get("timeout") or "60"}},
    spec={
        "selector": {"match_labels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {
                "service_account_name": account.metadata["name"],
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                "containers": [
                    {
                        "name": "triton",
                        "image": "nvcr.io/nvidia/tritonserver:25.04-py3",
                        "args": [config.get("argument") or "--log-verbose=0"],
                        "resources": {"limits": {"nvidia.com/gpu": config.get("gpus") or "1"}},
                    }
                ],
            },
        },
    },
    opts=here,
)
service = kubernetes.core.v1.Service(
    "triton-http",
    metadata=place,
    spec={"type": "LoadBalancer", "selector": labels, "ports": [{"name": "http", "port": 8000}]},
    opts=here,
)
kubernetes.autoscaling.v2.HorizontalPodAutoscaler(
    "autoscaler",
    metadata=place | {"annotations": {"pulumi.com/patchForce": config.get("force") or "false"}},
    spec={
        "min_replicas": 1,
        "max_replicas": 2,
        "scale_target_ref": {"api_version": "apps/v1", "kind": "Deployment", "name": deployment.metadata["name"]},
        "metrics": [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "average_utilization": 60}},
            }
        ],
    },
    opts=here,
)

pulumi.export("namespace", namespace.metadata["name"])
pulumi.export("deployment", deployment.metadata["name"])
pulumi.export("service", service.metadata["name"])
pulumi.export("address", service.status.load_balancer.ingress[0].ip)
