"""An endpoint and its scaling; a setting changes the model."""

import json

import pulumi
import pulumi_aws as aws

config = pulumi.Config()
trust = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}

role = aws.iam.Role("role", assume_role_policy=json.dumps(trust))
model = aws.sagemaker.Model(
    "model",
    execution_role_arn=role.arn,
    primary_container={
        "image": "785573368785.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tritonserver:25.04-py3",
        "environment": {
            "SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": config.get("model") or "bert",
            "TOKEN": pulumi.Output.secret("opensesame"),
        },
        "model_data_source": {
            "s3_data_sources": [
                {
                    "s3_uri": "s3://models/bert/",
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
            "variant_name": "AllTraffic",
            "instance_type": "ml.g4dn.xlarge",
            "initial_instance_count": 1,
        }
    ],
)
endpoint = aws.sagemaker.Endpoint("endpoint", endpoint_config_name=configuration.name)
target = aws.appautoscaling.Target(
    "target",
    service_namespace="sagemaker",
    scalable_dimension="sagemaker:variant:DesiredInstanceCount",
    resource_id=pulumi.Output.concat("endpoint/", endpoint.name, "/variant/AllTraffic"),
    min_capacity=1,
    max_capacity=4,
)

pulumi.export("endpoint", endpoint.name)
pulumi.export("configuration", configuration.name)
pulumi.export("resource_id", target.resource_id)
