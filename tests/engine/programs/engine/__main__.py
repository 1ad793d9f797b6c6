"""A bucket, the sources of an engine in it, and the engine."""

from pathlib import Path

import pulumi
import pulumi_aws as aws

from components.aws.engine_build import EngineBuild
from model_repo.engine import EngineOrder

config = pulumi.Config()
order = EngineOrder.model_validate_json(Path("order.json").read_text())
source = Path("source")

bucket = aws.s3.Bucket("store", force_destroy=True)
uploads = [
    aws.s3.BucketObjectv2(
        path.name,
        bucket=bucket.bucket,
        key=f"{order.source_prefix}/{path.relative_to(source).as_posix()}",
        source=pulumi.FileAsset(str(path)),
    )
    for path in sorted(source.rglob("*"))
    if path.is_file()
]
built = EngineBuild(
    "bert",
    {
        "order": order,
        "bucket": bucket.bucket,
        "bucket_arn": bucket.arn,
        "source_uri": pulumi.Output.format("s3://{}/{}", uploads[0].bucket, order.source_prefix),
        "image": config.get("image") or "763104351884.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tritonserver:25.09-py3",
        "region": "us-east-1",
    },
    pulumi.ResourceOptions(depends_on=uploads),
)
pulumi.export("bucket", bucket.bucket)
pulumi.export("digest", built.digest)
pulumi.export("uri", built.uri)
