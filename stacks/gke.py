"""Target 2: a GKE cluster with T4 nodes in every region, one Triton a node."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from capacity.planner import InstancePlan
from components.gcp.gpu_cluster import GpuCluster
from components.gcp.model_reader import ModelReader
from components.gcp.model_store import ModelStore
from components.gcp.network import Network
from components.kubernetes.triton_deployment import SERVICE_ACCOUNT, TritonDeployment, TritonDeploymentArgs
from components.kubernetes.triton_scaling import TritonScaling
from model_repo.compatibility import triton_releases
from stacks.model import ServedModel, model_uri
from stacks.settings import Settings


def deploy(
    name: str, settings: Settings, model: ServedModel, plans: Mapping[str, InstancePlan]
) -> list[dict[str, Any]]:
    """Deploy every region and say how each is reached.

    Args:
        name: Prefix of every resource, and name of the namespace in every cluster.
        settings: The stack's settings.
        model: What the Tritons serve.
        plans: Region → on how many nodes.
    """
    store = ModelStore(f"{name}-models", {"location": settings.gke.regions[0]})
    uri = model_uri(f"{name}-model", pulumi.Output.concat("gs://", store.bucket), model)
    deployment: TritonDeploymentArgs = {
        "namespace": name,
        "model_uri": uri,
        "image": triton_releases()[settings.triton.release].gke_image,
        "http_port": settings.gke.http_port,
        "grpc_port": settings.gke.grpc_port,
    }
    if settings.gke.kubeconfig is None:
        reader = ModelReader(
            f"{name}-reader",
            {
                "project": settings.gcp_project,
                "bucket": store.bucket,
                "namespace": name,
                "service_account": SERVICE_ACCOUNT,
            },
        )
        deployment["google_service_account"] = reader.email
    return [
        {
            **_deploy_region(f"{name}-{region}", settings, region, plan, deployment),
            "region": region,
            "model": model.name,
            "digest": model.digest,
            "model_uri": uri,
            "plan": asdict(plan),
        }
        for region, plan in plans.items()
    ]


def _deploy_region(
    name: str, settings: Settings, region: str, plan: InstancePlan, deployment: TritonDeploymentArgs
) -> dict[str, Any]:
    kubeconfig = settings.gke.kubeconfig or _cluster(name, settings, region, plan).kubeconfig
    provider = kubernetes.Provider(f"{name}-kubernetes", kubeconfig=kubeconfig, enable_server_side_apply=True)
    inside = pulumi.ResourceOptions(provider=provider)
    triton = TritonDeployment(f"{name}-triton", deployment, opts=inside)
    TritonScaling(
        f"{name}-scaling", {"namespace": triton.namespace, "deployment": triton.name, "plan": plan}, opts=inside
    )
    return {
        "http": pulumi.Output.format("http://{}:{}", triton.address, settings.gke.http_port),
        "grpc": pulumi.Output.format("{}:{}", triton.address, settings.gke.grpc_port),
        "namespace": triton.namespace,
        "deployment": triton.name,
        "kubeconfig": kubeconfig,
    }


def _cluster(name: str, settings: Settings, region: str, plan: InstancePlan) -> GpuCluster:
    network = Network(f"{name}-network", {"region": region})
    return GpuCluster(
        name,
        {
            "project": settings.gcp_project,
            "region": region,
            "network": network.network,
            "subnetwork": network.subnetwork,
            "authorized_networks": settings.gke.authorized_networks,
            "plan": plan,
        },
    )
