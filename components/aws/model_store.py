"""The bucket that SageMaker loads models from."""

from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

_LIFECYCLE: list[aws.s3.BucketLifecycleConfigurationRuleArgsDict] = [
    {
        "id": "old-versions",
        "status": "Enabled",
        "filter": {"prefix": ""},
        "noncurrent_version_expiration": {"noncurrent_days": 30},
        "expiration": {"expired_object_delete_marker": True},
    },
    {
        "id": "unfinished-uploads",
        "status": "Enabled",
        "filter": {"prefix": ""},
        "abort_incomplete_multipart_upload": {"days_after_initiation": 7},
    },
]


class ModelStoreArgs(TypedDict):
    """How the bucket is encrypted."""

    kms_key_arn: NotRequired[pulumi.Input[str]]
    """Left out: with S3's own keys (AES-256)."""


class ModelStore(pulumi.ComponentResource):
    """A private S3 bucket for model repositories: versioned, encrypted, TLS only, kept when the stack goes.

    What was deleted stays a month, as an old version; an upload that nobody finished stays a week.

    It holds repositories under `models/<name>/<digest>/`. It puts none there (`PublishedModel` does) and never
    deletes one: a digest may be what another stack serves.
    """

    bucket: pulumi.Output[str]
    """Name of the bucket, once it is private and encrypted."""
    url: pulumi.Output[str]
    """`s3://<bucket>`."""
    arn: pulumi.Output[str]

    def __init__(self, name: str, args: ModelStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:aws:ModelStore", name, {}, opts)
        # The bytes outlive the stack, for a rollback and a promotion read digests that are no longer served; and a
        # bucket that stays keeps what makes it private.
        child = pulumi.ResourceOptions(parent=self, retain_on_delete=True)
        bucket = aws.s3.Bucket(f"{name}-bucket", opts=child)
        guards: list[pulumi.Resource] = [
            aws.s3.BucketPublicAccessBlock(
                f"{name}-public-access-block",
                bucket=bucket.bucket,
                block_public_acls=True,
                block_public_policy=True,
                ignore_public_acls=True,
                restrict_public_buckets=True,
                opts=child,
            ),
            aws.s3.BucketOwnershipControls(
                f"{name}-ownership", bucket=bucket.bucket, rule={"object_ownership": "BucketOwnerEnforced"}, opts=child
            ),
            aws.s3.BucketServerSideEncryptionConfiguration(
                f"{name}-encryption",
                bucket=bucket.bucket,
                rules=[_encryption(args)],
                opts=child,
            ),
        ]
        versioning = aws.s3.BucketVersioning(
            f"{name}-versioning", bucket=bucket.bucket, versioning_configuration={"status": "Enabled"}, opts=child
        )
        # The provider's documentation asks for versioning before rules on old versions.
        lifecycle = aws.s3.BucketLifecycleConfiguration(
            f"{name}-lifecycle",
            bucket=bucket.bucket,
            rules=_LIFECYCLE,
            opts=pulumi.ResourceOptions(parent=self, retain_on_delete=True, depends_on=[versioning]),
        )
        # S3 answers a policy change with a conflict while the access block of the same bucket is being written.
        policy = aws.s3.BucketPolicy(
            f"{name}-policy",
            bucket=bucket.bucket,
            policy=pulumi.Output.json_dumps(_tls_only(bucket.arn), sort_keys=True),
            opts=pulumi.ResourceOptions(parent=self, retain_on_delete=True, depends_on=guards),
        )
        self.bucket = pulumi.Output.all(bucket.bucket, lifecycle.id, policy.id).apply(lambda values: str(values[0]))
        self.url = pulumi.Output.concat("s3://", self.bucket)
        self.arn = bucket.arn
        self.register_outputs({"bucket": self.bucket})


def _encryption(args: ModelStoreArgs) -> aws.s3.BucketServerSideEncryptionConfigurationRuleArgsDict:
    if "kms_key_arn" not in args:
        return {"apply_server_side_encryption_by_default": {"sse_algorithm": "AES256"}}
    return {
        "apply_server_side_encryption_by_default": {
            "sse_algorithm": "aws:kms",
            "kms_master_key_id": args["kms_key_arn"],
        },
        # One call to KMS for many objects, in place of one for each.
        "bucket_key_enabled": True,
    }


def _tls_only(bucket_arn: pulumi.Input[str]) -> dict[str, object]:
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "TlsOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [bucket_arn, pulumi.Output.concat(bucket_arn, "/*")],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    }
