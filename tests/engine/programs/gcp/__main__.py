"""A bucket with an object, an account and a cluster; settings change one thing each."""

import pulumi
import pulumi_gcp as gcp

config = pulumi.Config()

project = gcp.organizations.get_project()
bucket = gcp.storage.Bucket(
    "bucket", location="US-CENTRAL1", force_destroy=True, labels={"team": config.get("team") or "serving"}
)
weights = gcp.storage.BucketObject("weights", bucket=bucket.name, name="weights", source=pulumi.FileAsset("weights"))
account = gcp.serviceaccount.Account("account", account_id=config.get("account") or "triton")
gcp.storage.BucketIAMMember("reader", bucket=bucket.name, role="roles/storage.objectViewer", member=account.member)
cluster = gcp.container.Cluster(
    "cluster",
    location="us-central1",
    initial_node_count=1,
    remove_default_node_pool=True,
    deletion_protection=config.get_bool("protected", default=False),
)

pulumi.export("bucket", bucket.name)
pulumi.export("number", project.number)
pulumi.export("email", account.email)
pulumi.export("endpoint", cluster.endpoint)
pulumi.export("certificate", cluster.master_auth.cluster_ca_certificate)
