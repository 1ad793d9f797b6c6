"""What SageMaker's instance types with T4s have."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class InstanceType:
    """What one instance has."""

    vcpus: int
    gpus: int


INSTANCE_TYPES: Final = {
    # https://aws.amazon.com/ec2/instance-types/g4/, an ml. type being the EC2 type of the same name.
    "ml.g4dn.xlarge": InstanceType(vcpus=4, gpus=1),
    "ml.g4dn.2xlarge": InstanceType(vcpus=8, gpus=1),
    "ml.g4dn.4xlarge": InstanceType(vcpus=16, gpus=1),
    "ml.g4dn.8xlarge": InstanceType(vcpus=32, gpus=1),
    "ml.g4dn.12xlarge": InstanceType(vcpus=48, gpus=4),
    "ml.g4dn.16xlarge": InstanceType(vcpus=64, gpus=1),
}
