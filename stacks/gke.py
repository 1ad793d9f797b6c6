"""Target 2: a GKE cluster with T4 nodes in every region, one Triton a node."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from capacity.planner import InstancePlan
from components.gcp.bucket_account import READER_ROLES, WRITER_ROLES, BucketAccount
from components.gcp.gpu_cluster import GpuCluster
from components.gcp.model_store import ModelStore
from components.gcp.network import Network
from components.kubernetes.engine_build import SERVICE_ACCOUNT as BUILD_SERVICE_ACCOUNT
from components.kubernetes.engine_build import EngineBuild, EngineBuildArgs
from components.kubernetes.triton_deployment import SERVICE_ACCOUNT, TritonDeployment, TritonDeploymentArgs
from components.kubernetes.triton_scaling import TritonScaling
from model_repo.compatibility import triton_releases
from stacks.model import ServedModel, StoredModel, copied_model, published_source, stored_model
from stacks.settings import Settings


def deploy(
    name: str,
    settings: Settings,
    model: ServedModel,
    plans: Mapping[str, InstancePlan],
    elsewhere: StoredModel | None,
) -> list[dict[str, Any]]:
    """Deploy every region and say how each is reached.

    Args:
        name: Prefix of every resource, and name of the namespace in every cluster.
        settings: The stack's settings.
        model: What the Tritons serve.
        plans: Region → on how many nodes.
        elsewhere: Where another target has the model; an engine that it has built is not built again.
    """
    store = ModelStore(f"{name}-models", {"location": settings.gke.regions[0]})
    kubeconfigs = {
        region: settings.gke.kubeconfig or _cluster(f"{name}-{region}", settings, region, plan).kubeconfig
        for region, plan in plans.items()
    }
    providers = {
        region: kubernetes.Provider(f"{name}-{region}-kubernetes", kubeconfig=kubeconfig, enable_server_side_apply=True)
        for region, kubeconfig in kubeconfigs.items()
    }
    if model.order is None:
        stored = stored_model(f"{name}-gcs-model", store.url, model)
    elif elsewhere:
        stored = copied_model(f"{name}-gcs-model", store.url, elsewhere)
    else:
        stored = _compiled(name, settings, model, store, providers[settings.gke.regions[0]])
    deployment: TritonDeploymentArgs = {
        "namespace": name,
        "model_uri": stored.uri,
        "image": triton_releases()[settings.triton.release].gke_image,
        "http_port": settings.gke.http_port,
        "grpc_port": settings.gke.grpc_port,
    }
    if settings.gke.kubeconfig is None:
        account = _account(f"{name}-reader", settings, store, READER_ROLES, name, SERVICE_ACCOUNT)
        deployment["google_service_account"] = account.email
    return [
        {
            **_deploy_region(f"{name}-{region}", settings, plan, deployment, providers[region]),
            "kubeconfig": kubeconfigs[region],
            "region": region,
            "model": model.name,
            "digest": stored.digest,
            "model_uri": stored.uri,
            "plan": asdict(plan),
        }
        for region, plan in plans.items()
    ]


def _deploy_region(
    name: str, settings: Settings, plan: InstancePlan, deployment: TritonDeploymentArgs, provider: kubernetes.Provider
) -> dict[str, Any]:
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
    }


def _compiled(
    name: str, settings: Settings, model: ServedModel, store: ModelStore, provider: kubernetes.Provider
) -> StoredModel:
    """The repository around an engine that a T4 node of the first region builds."""
    assert model.order  # noqa: S101 - by the caller
    assert model.artifact  # noqa: S101 - it is what the order is built from
    source = published_source(f"{name}-gcs-source", store.url, model.artifact, model.order)
    namespace = f"{name}-engines"
    inside = pulumi.ResourceOptions(provider=provider, depends_on=[source])
    made = kubernetes.core.v1.Namespace(
        f"{name}-engine-namespace",
        metadata={"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        opts=inside,
    )
    args: EngineBuildArgs = {
        "order": model.order,
        "namespace": made.metadata.name,
        "bucket": store.bucket,
        "image": triton_releases()[settings.triton.release].gke_image,
        "onnx_size_bytes": model.artifact.manifest.size_bytes,
    }
    if settings.gke.kubeconfig is None:
        account = _account(f"{name}-builder", settings, store, WRITER_ROLES, namespace, BUILD_SERVICE_ACCOUNT)
        args["google_service_account"] = account.email
    engine = EngineBuild(f"{name}-engine", args, opts=inside)
    return StoredModel(model.name, store.url, engine.digest, engine.uri)


def _account(
    name: str, settings: Settings, store: ModelStore, roles: Sequence[str], namespace: str, service_account: str
) -> BucketAccount:
    return BucketAccount(
        name,
        {
            "project": settings.gcp_project,
            "bucket": store.bucket,
            "roles": roles,
            "namespace": namespace,
            "service_account": service_account,
        },
    )


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
