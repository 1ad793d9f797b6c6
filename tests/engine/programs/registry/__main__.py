"""A model in the registry; a setting says which digest."""

import pulumi

from components.aws.registered_model import RegisteredModel

config = pulumi.Config()
digest = config.require("digest")

model = RegisteredModel(
    "bert",
    {
        "group": "program-bert",
        "region": "us-east-1",
        "digest": digest,
        "variant": "trt-db",
        "model_uri": f"s3://models/models/bert/{digest}",
        "image": config.get("image") or "785573368785.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tritonserver:25.09-py3",
        "environment": {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "bert"},
        "instance_type": "ml.g4dn.xlarge",
    },
)
pulumi.export("package_arn", model.package_arn)
