"""A GKE cluster with T4 nodes."""

from typing import TypedDict

import pulumi
import pulumi_gcp as gcp
import yaml

from capacity.planner import InstancePlan
from components.gcp.account_id import account_id
from components.gcp.network import PODS_RANGE, SERVICES_RANGE
from components.gcp.t4_zones import T4_ZONES

ACCELERATOR = "nvidia-tesla-t4"
GPU_DRIVER_VERSION = "LATEST"
"""The default one is too old for the CUDA of recent Triton images: `model_repo.compatibility_check` compares them."""


class GpuClusterArgs(TypedDict):
    """Where the cluster runs, and how many T4 nodes it may have."""

    project: str
    region: str
    """A key of `T4_ZONES`."""
    network: pulumi.Input[str]
    subnetwork: pulumi.Input[str]
    """Subnet with the secondary ranges `pods` and `services`."""
    authorized_networks: list[str]
    """CIDR blocks that may reach the control plane; empty: only from within the network."""
    plan: InstancePlan
    """Machine type and bounds of the T4 pool: one Triton a node."""


class GpuCluster(pulumi.ComponentResource):
    """A regional, private, VPC-native cluster with a small system pool and an autoscaled pool of T4 nodes.

    Pods reach Google APIs by Workload Identity; nodes run as an account that may only write logs and metrics. It
    deploys nothing into the cluster.
    """

    cluster_name: pulumi.Output[str]
    kubeconfig: pulumi.Output[str]
    """Kubeconfig without a secret: `gke-gcloud-auth-plugin` gets the token when it is used."""

    def __init__(self, name: str, args: GpuClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:gcp:GpuCluster", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        account = gcp.serviceaccount.Account(
            f"{name}-nodes", account_id=account_id(name, "nodes"), display_name=f"Nodes of {name}", opts=child
        )
        # https://cloud.google.com/kubernetes-engine/docs/how-to/hardening-your-cluster#use_least_privilege_sa
        role = gcp.projects.IAMMember(
            f"{name}-nodes-role",
            project=args["project"],
            role="roles/container.defaultNodeServiceAccount",
            member=account.member,
            opts=child,
        )
        cluster = gcp.container.Cluster(
            f"{name}-cluster",
            location=args["region"],
            network=args["network"],
            subnetwork=args["subnetwork"],
            ip_allocation_policy={
                "cluster_secondary_range_name": PODS_RANGE,
                "services_secondary_range_name": SERVICES_RANGE,
            },
            # The default pool cannot be shaped: it is removed, and pools of our own are added.
            initial_node_count=1,
            remove_default_node_pool=True,
            datapath_provider="ADVANCED_DATAPATH",
            private_cluster_config={"enable_private_nodes": True},
            master_authorized_networks_config={
                "cidr_blocks": [{"cidr_block": block} for block in args["authorized_networks"]]
            },
            release_channel={"channel": "REGULAR"},
            workload_identity_config={"workload_pool": f"{args['project']}.svc.id.goog"},
            enable_shielded_nodes=True,
            # `pulumi destroy` is the one way to delete it; a stack that must not go is protected as a stack.
            deletion_protection=False,
            opts=child,
        )
        on_cluster = pulumi.ResourceOptions(parent=self, depends_on=[role])
        gcp.container.NodePool(
            f"{name}-system",
            location=args["region"],
            cluster=cluster.name,
            node_count=1,
            management={"auto_repair": True, "auto_upgrade": True},
            node_config={**_node_config(account.email), "machine_type": "e2-standard-2"},
            opts=on_cluster,
        )
        plan = args["plan"]
        gcp.container.NodePool(
            f"{name}-t4",
            location=args["region"],
            cluster=cluster.name,
            node_locations=[f"{args['region']}-{letter}" for letter in T4_ZONES[args["region"]]],
            # ANY: T4s run out zone by zone, so a node is taken from wherever there is one.
            autoscaling={
                "total_min_node_count": plan.min_count,
                "total_max_node_count": plan.max_count,
                "location_policy": "ANY",
            },
            management={"auto_repair": True, "auto_upgrade": True},
            # A surge node would need a T4 beyond the pool's bound: where they are scarce the upgrade would never end.
            upgrade_settings={"strategy": "SURGE", "max_surge": 0, "max_unavailable": 1},
            node_config={
                **_node_config(account.email),
                "machine_type": plan.instance_type,
                "guest_accelerators": [
                    {
                        "type": ACCELERATOR,
                        "count": 1,
                        "gpu_driver_installation_config": {"gpu_driver_version": GPU_DRIVER_VERSION},
                    }
                ],
                # Gigabytes: two Triton images of 20 GB unpacked while one follows the other, and the model.
                "disk_size_gb": 100,
                "gcfs_config": {"enabled": True},
                "taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NO_SCHEDULE"}],
            },
            opts=on_cluster,
        )
        self.cluster_name = cluster.name
        self.kubeconfig = pulumi.Output.all(
            name=cluster.name,
            server=cluster.endpoint,
            authority=cluster.master_auth.apply(lambda auth: auth.cluster_ca_certificate),
        ).apply(lambda values: kubeconfig(values["name"], values["server"], values["authority"]))
        self.register_outputs({"cluster_name": self.cluster_name, "kubeconfig": self.kubeconfig})


def _node_config(account_email: pulumi.Output[str]) -> gcp.container.NodePoolNodeConfigArgsDict:
    return {
        "service_account": account_email,
        "oauth_scopes": ["https://www.googleapis.com/auth/cloud-platform"],
        "shielded_instance_config": {"enable_secure_boot": True, "enable_integrity_monitoring": True},
        "workload_metadata_config": {"mode": "GKE_METADATA"},
    }


def kubeconfig(name: str, server: str, certificate_authority: str) -> str:
    """A kubeconfig for a GKE cluster, in a form that does not change between runs.

    Args:
        name: Name of the cluster.
        server: Address of the control plane, without a scheme.
        certificate_authority: Base64 of the cluster's certificate.
    """
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": "gke-gcloud-auth-plugin",
        "installHint": "https://cloud.google.com/kubernetes-engine/docs/how-to/cluster-access-for-kubectl",
        "provideClusterInfo": True,
    }
    cluster = {"server": f"https://{server}", "certificate-authority-data": certificate_authority}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": name, "user": {"exec": plugin}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        },
        sort_keys=True,
    )
