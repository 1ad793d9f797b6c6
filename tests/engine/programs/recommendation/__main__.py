"""A bucket, a role, a SageMaker model, and what Inference Recommender measures of it."""

import json

import pulumi
import pulumi_aws as aws

from capacity.recommendation import EndpointRate, LoadTest
from components.aws.recommendation import Recommendation
from model_repo.spec import load_spec

config = pulumi.Config()
bucket = aws.s3.Bucket("store", force_destroy=True)
trust = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
role = aws.iam.Role("role", assume_role_policy=json.dumps({"Version": "2012-10-17", "Statement": [trust]}))
image = "763104351884.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tritonserver:25.09-py3"
model = aws.sagemaker.Model("model", execution_role_arn=role.arn, primary_container={"image": image})
measured = Recommendation(
    "bert",
    {
        "spec": load_spec("bert-small"),
        "variant": "trt-ig-db",
        "model_name": model.name,
        "instance_types": ["ml.g4dn.xlarge"],
        "load_test": LoadTest(
            max_invocations_per_minute_of_endpoint=EndpointRate(config.get_int("rate") or 30_000),
            max_latency_p95_ms=500,
        ),
        "bucket": bucket.bucket,
        "role_arn": role.arn,
        "region": "us-east-1",
    },
)
pulumi.export("job", measured.job_name)
pulumi.export("measurements", measured.measurements)
