"""The identity with which Tritons on GKE read models."""

from typing import TypedDict

import pulumi
import pulumi_gcp as gcp

from components.gcp.account_id import account_id


class ModelReaderArgs(TypedDict):
    """Who reads which bucket."""

    project: str
    bucket: pulumi.Input[str]
    namespace: str
    service_account: str
    """Name of the Kubernetes service account of the Triton pods."""


class ModelReader(pulumi.ComponentResource):
    """A Google service account that may read one bucket, for one Kubernetes service account, without a key."""

    email: pulumi.Output[str]
    """Value of the `iam.gke.io/gcp-service-account` annotation."""

    def __init__(self, name: str, args: ModelReaderArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:gcp:ModelReader", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        account = gcp.serviceaccount.Account(
            f"{name}-account",
            account_id=account_id(name, "account"),
            display_name="Tritons that read models",
            opts=child,
        )
        # Triton lists the bucket as well as reading objects, which objectViewer alone does not allow:
        # https://github.com/triton-inference-server/server/issues/2253
        roles = {"objects": "roles/storage.objectViewer", "bucket": "roles/storage.legacyBucketReader"}
        grants: list[pulumi.Resource] = [
            gcp.storage.BucketIAMMember(
                f"{name}-{what}", bucket=args["bucket"], role=role, member=account.member, opts=child
            )
            for what, role in roles.items()
        ]
        subject = f"{args['project']}.svc.id.goog[{args['namespace']}/{args['service_account']}]"
        binding = gcp.serviceaccount.IAMMember(
            f"{name}-workload-identity",
            service_account_id=account.name,
            role="roles/iam.workloadIdentityUser",
            member=f"serviceAccount:{subject}",
            opts=pulumi.ResourceOptions(parent=self, depends_on=grants),
        )
        self.email = pulumi.Output.all(account.email, binding.id).apply(lambda values: str(values[0]))
        self.register_outputs({"email": self.email})
