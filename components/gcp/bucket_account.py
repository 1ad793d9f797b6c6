"""The identity with which pods on GKE reach one bucket."""

from collections.abc import Sequence
from typing import Final, TypedDict

import pulumi
import pulumi_gcp as gcp

from components.gcp.account_id import account_id

READER_ROLES: Final = ("roles/storage.objectViewer", "roles/storage.legacyBucketReader")
"""What Triton needs. It lists the bucket as well as reading objects, which objectViewer alone does not allow:
https://github.com/triton-inference-server/server/issues/2253"""

WRITER_ROLES: Final = ("roles/storage.objectUser",)
"""What the build of an engine needs: it reads, writes and removes objects, and no setting of the bucket."""


class BucketAccountArgs(TypedDict):
    """Who may do what in which bucket."""

    project: str
    bucket: pulumi.Input[str]
    roles: Sequence[str]
    """`READER_ROLES` or `WRITER_ROLES`."""
    namespace: str
    service_account: str
    """Name of the Kubernetes service account of the pods."""


class BucketAccount(pulumi.ComponentResource):
    """A Google service account that one Kubernetes service account acts as, in one bucket, without a key."""

    email: pulumi.Output[str]
    """Value of the `iam.gke.io/gcp-service-account` annotation."""

    def __init__(self, name: str, args: BucketAccountArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:gcp:BucketAccount", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        subject = f"{args['project']}.svc.id.goog[{args['namespace']}/{args['service_account']}]"
        account = gcp.serviceaccount.Account(
            f"{name}-account", account_id=account_id(name, "account"), display_name=subject, opts=child
        )
        grants: list[pulumi.Resource] = [
            gcp.storage.BucketIAMMember(
                f"{name}-{role.rpartition('.')[2]}", bucket=args["bucket"], role=role, member=account.member, opts=child
            )
            for role in args["roles"]
        ]
        binding = gcp.serviceaccount.IAMMember(
            f"{name}-workload-identity",
            service_account_id=account.name,
            role="roles/iam.workloadIdentityUser",
            member=f"serviceAccount:{subject}",
            opts=pulumi.ResourceOptions(parent=self, depends_on=grants),
        )
        self.email = pulumi.Output.all(account.email, binding.id).apply(lambda values: str(values[0]))
        self.register_outputs({"email": self.email})
