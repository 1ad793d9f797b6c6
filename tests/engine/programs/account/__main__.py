"""A model store, a role that reads it, and an endpoint in service from it: what an account may refuse."""

import pulumi
import pulumi_aws as aws

from components.aws.endpoint_role import EndpointRole

config = pulumi.Config()
image = config.get("image") or "785573368785.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tritonserver:25.09-py3"
bucket_region = config.get("bucket_region")

store = aws.s3.Bucket("store", force_destroy=True, region=bucket_region)
role = EndpointRole(
    "role",
    {
        "endpoint": "account-endpoint",
        "bucket_arn": store.arn,
        "prefixes": ["models/bert/0"],
        "image": image,
    },
)
model = aws.sagemaker.Model(
    "model",
    execution_role_arn=role.arn,
    primary_container={
        "image": image,
        "model_data_source": {
            "s3_data_sources": [
                {
                    "s3_uri": pulumi.Output.format("s3://{}/models/bert/0/", store.bucket),
                    "s3_data_type": "S3Prefix",
                    "compression_type": "None",
                }
            ]
        },
    },
)
configuration = aws.sagemaker.EndpointConfiguration(
    "configuration",
    production_variants=[
        {
            "model_name": model.name,
            "variant_name": "triton",
            "instance_type": "ml.g4dn.xlarge",
            "initial_instance_count": config.get_int("count") or 2,
        }
    ],
)
endpoint = aws.sagemaker.Endpoint("endpoint", name="account-endpoint", endpoint_config_name=configuration.name)
pulumi.export("endpoint", endpoint.name)
