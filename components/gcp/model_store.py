"""The bucket that GKE's Tritons load models from."""

from typing import TypedDict

import pulumi
import pulumi_gcp as gcp


class ModelStoreArgs(TypedDict):
    """Where the model store lies."""

    location: str
    """Cloud Storage location: the region of the first cluster."""


class ModelStore(pulumi.ComponentResource):
    """A private Cloud Storage bucket for model repositories: uniform access, versioned, kept when the stack goes.

    What was deleted stays a month, as an old version; an upload that nobody finished stays a week. Cloud Storage
    encrypts every object; to refuse plain HTTP is the organisation's to say there (`storage.secureHttpTransport`).

    It holds repositories under `models/<name>/<digest>/`. It puts none there (`PublishedModel` does), grants nobody
    anything and never deletes a repository.
    """

    bucket: pulumi.Output[str]
    url: pulumi.Output[str]
    """`gs://<bucket>`."""

    def __init__(self, name: str, args: ModelStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:gcp:ModelStore", name, {}, opts)
        bucket = gcp.storage.Bucket(
            f"{name}-bucket",
            location=args["location"].upper(),
            uniform_bucket_level_access=True,
            public_access_prevention="enforced",
            versioning={"enabled": True},
            lifecycle_rules=[
                {"action": {"type": "Delete"}, "condition": {"days_since_noncurrent_time": 30}},
                {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 7}},
            ],
            # The bytes outlive the stack: a rollback and a promotion read digests that are no longer served.
            opts=pulumi.ResourceOptions(parent=self, retain_on_delete=True),
        )
        self.bucket = bucket.name
        self.url = pulumi.Output.concat("gs://", self.bucket)
        self.register_outputs({"bucket": self.bucket})
