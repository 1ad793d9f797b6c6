"""The network that one cluster lives in."""

from typing import TypedDict

import pulumi
import pulumi_gcp as gcp

PODS_RANGE = "pods"
SERVICES_RANGE = "services"


class NetworkArgs(TypedDict):
    """Where the network lies."""

    region: str


class Network(pulumi.ComponentResource):
    """A VPC with one subnet for nodes, pods and services, and a NAT through which private nodes pull images.

    It opens no port: GKE adds the rules that its load balancers and control plane need.
    """

    network: pulumi.Output[str]
    subnetwork: pulumi.Output[str]

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:gcp:Network", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        network = gcp.compute.Network(f"{name}-network", auto_create_subnetworks=False, opts=child)
        subnetwork = gcp.compute.Subnetwork(
            f"{name}-subnetwork",
            network=network.id,
            region=args["region"],
            # Nodes: 4,096 addresses. Pods: a /24 for each node, 1,024 nodes.
            ip_cidr_range="10.0.0.0/20",
            secondary_ip_ranges=[
                {"range_name": PODS_RANGE, "ip_cidr_range": "10.64.0.0/14"},
                {"range_name": SERVICES_RANGE, "ip_cidr_range": "10.32.0.0/20"},
            ],
            private_ip_google_access=True,
            opts=child,
        )
        router = gcp.compute.Router(f"{name}-router", network=network.id, region=args["region"], opts=child)
        gcp.compute.RouterNat(
            f"{name}-nat",
            router=router.name,
            region=args["region"],
            nat_ip_allocate_option="AUTO_ONLY",
            source_subnetwork_ip_ranges_to_nat="ALL_SUBNETWORKS_ALL_IP_RANGES",
            opts=child,
        )
        self.network = network.id
        self.subnetwork = subnetwork.id
        self.register_outputs({"network": self.network, "subnetwork": self.subnetwork})
