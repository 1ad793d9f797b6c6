"""A bucket and what is in it; settings change one thing each."""

from typing import Any

import pulumi
import pulumi_aws as aws

config = pulumi.Config()
versioning: Any = {config.get("status_key") or "status": "Enabled"}

bucket = aws.s3.Bucket("bucket", force_destroy=True, tags={"team": config.get("team") or "serving"})
aws.s3.BucketVersioning("versioning", bucket=bucket.id, versioning_configuration=versioning)
aws.s3.BucketObjectv2("weights", bucket=bucket.id, key="weights", source=pulumi.FileAsset("weights"))
note = aws.s3.BucketObjectv2(
    "note", bucket=config.get("note_bucket") or bucket.id, key="note", content=pulumi.Output.secret("opensesame")
)

pulumi.export("bucket", bucket.bucket)
pulumi.export("note", note.content)
