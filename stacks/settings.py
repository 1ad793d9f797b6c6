"""The settings of a stack: the only reader of `pulumi.Config`.

Every section is required and closed: a misspelt key, a wrong type or a value out of range is one line of error each,
and no resource is registered before all of them are right.
"""

import json
import re
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pulumi.runtime.config import CONFIG, get_config_env
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from capacity.autoscaling import ScalingMetric, ScheduledRate
from capacity.instance_types import INSTANCE_TYPES
from capacity.measurements import MACHINES, SHIPPED_FOLDER
from components.aws.deployment import MAX_WAIT_S, STEP_PERCENT, Strategy
from components.gcp.t4_zones import T4_ZONES
from model_repo.compatibility import triton_releases
from model_repo.recipe import Precision
from model_repo.spec import spec_names
from model_repo.variant import VARIANTS, parse_variant
from model_repo.yamlfile import printable
from observability.slo import Slo

PROJECT = "triton-stack"

# Characters of a wrong value that an error shows.
_SHOWN = 60

_DIGEST = "^[0-9a-f]{64}$"
SubnetId = Annotated[str, Field(pattern="^subnet-[0-9a-f]+$")]
SecurityGroupId = Annotated[str, Field(pattern="^sg-[0-9a-f]+$")]

# https://docs.aws.amazon.com/sagemaker/latest/dg/instance-types-az.html: every g4dn size that SageMaker hosts on
G4DN_TYPES = tuple(INSTANCE_TYPES)


class SettingsError(ValueError):
    """Settings that cannot be used: one line an error."""


class _Section(BaseModel):
    # strict: "500" is not a number; a section says what it takes and takes nothing else
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _one_of(choices: tuple[str, ...], what: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"is not {what}; one of {', '.join(choices)}")
        return value

    return check


class ModelSettings(_Section):
    """Which model the stack serves."""

    name: Annotated[str, Field(examples=["bert-large"])]
    """Name of a spec in `model_repo/models/`."""
    variant: Annotated[str, Field(examples=["trt-db"])]
    """Framework, dynamic batching and instance groups: pt-base … trt-ig-db."""
    precision: Annotated[Precision, Field(examples=["fp16"])]
    """Arithmetic of the served model: fp32, fp16 or int8."""
    device: Annotated[Literal["t4", "cpu"], Field(examples=["t4"])]
    """What the repository is made for: a T4, or the CPU of a machine without one."""
    digest: Annotated[str | None, Field(pattern=_DIGEST, examples=["a digest: 64 hexadecimal digits"])] = None
    """Digest of a repository that is in the model store. Left out: the one that was built on this machine."""
    compile: Annotated[Literal["if-missing", "never"], Field(examples=["never"])]
    """`never`: the stack takes only a digest that another stack has tested."""

    @field_validator("name")
    @classmethod
    def _known_spec(cls, value: str) -> str:
        return _one_of(tuple(spec_names()), "a model of model_repo/models")(value)

    @field_validator("variant")
    @classmethod
    def _known_variant(cls, value: str) -> str:
        try:
            return parse_variant(value).name
        except ValueError:
            return _one_of(tuple(VARIANTS), "a variant")(value)

    @model_validator(mode="after")
    def _never_needs_digest(self) -> Self:
        if self.compile == "never" and self.digest is None:
            raise ValueError(
                "digest: missing, and compile is never; name the digest that was tested, or compile: if-missing"
            )
        return self


class TritonSettings(_Section):
    """Which Triton serves it, on both targets."""

    release: Annotated[str, Field(examples=["25.09"])]
    """Triton release (YY.MM); it fixes both images, TensorRT and the driver."""

    @field_validator("release")
    @classmethod
    def _known_release(cls, value: str) -> str:
        return _one_of(tuple(triton_releases()), "a release of model_repo/compatibility.yaml")(value)


class SloSettings(_Section):
    """What a client may expect."""

    latency_ms: Annotated[float, Field(gt=0, le=60_000, examples=[500])]
    """Model latency. SageMaker cuts a request at 60 s."""
    percentile: Annotated[float, Field(gt=50, lt=100, examples=[95])] = Slo.percentile
    """Share of requests that hold it, in percent. CloudWatch takes two decimals at most:
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/monitoring_get_statistics.html"""
    availability: Annotated[float, Field(ge=0.9, lt=1, examples=[0.999])] = Slo.availability
    """Share of requests that are answered: 0.999 lets one in a thousand fail."""

    @field_validator("percentile")
    @classmethod
    def _two_decimals(cls, value: float) -> float:
        if round(value, 2) != value:
            raise ValueError("has more decimals than CloudWatch takes, which are two; write e.g. 99.9")
        return value


class TrafficSettings(_Section):
    """What clients send, over all regions together."""

    base_rps: Annotated[float, Field(gt=0, le=10_000_000, examples=[70])]
    """Lowest requests per second."""
    peak_rps: Annotated[float, Field(gt=0, le=10_000_000, examples=[500])]
    """Highest requests per second."""
    profile: Annotated[
        list[ScheduledRate],
        Field(examples=['[{schedule: "cron(0 7 ? * MON-FRI *)", timezone: Europe/Berlin, rps: 200}]']),
    ] = []
    """When how many are expected: the SageMaker endpoint has the instances for them there from that moment on."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.base_rps > self.peak_rps:
            raise ValueError(
                f"base_rps: {self.base_rps:g} is over peak_rps {self.peak_rps:g}; write at most {self.peak_rps:g}"
            )
        return self

    @model_validator(mode="after")
    def _profile_within(self) -> Self:
        for rate in self.profile:
            if not self.base_rps <= rate.rps <= self.peak_rps:
                raise ValueError(
                    f"profile: {rate.rps:g} is outside of base_rps {self.base_rps:g} and peak_rps {self.peak_rps:g}; "
                    "write a rate between them, or widen them"
                )
        moments = [(rate.schedule, rate.timezone) for rate in self.profile]
        if len(set(moments)) != len(moments):
            raise ValueError("profile: names a moment twice; write each schedule once")
        return self


class CapacitySettings(_Section):
    """How counts follow from measurements."""

    measurements: Annotated[str, Field(examples=["bert-large-g4dn.csv"])]
    """Name of a file in `capacity/measurements/`."""
    headroom: Annotated[float, Field(ge=1, le=10, examples=[1.2])]
    """The fleet may grow to the peak times this."""
    safety_factor: Annotated[float, Field(gt=0, le=1, examples=[0.7])]
    """Share of the measured throughput at which the scaler adds an instance."""

    @field_validator("measurements")
    @classmethod
    def _shipped(cls, value: str) -> str:
        return _one_of(
            tuple(sorted(path.name for path in SHIPPED_FOLDER.glob("*.csv"))), "a file of capacity/measurements"
        )(value)


class DeploymentSettings(_Section):
    """How an endpoint moves to a new configuration."""

    strategy: Annotated[Strategy, Field(examples=["canary"])]
    """all-at-once, canary, linear (each beside the old fleet) or rolling (in its place)."""
    wait_s: Annotated[int, Field(ge=0, le=MAX_WAIT_S, examples=[300])]
    """Seconds of each baking period, in which the rollback alarms are watched."""
    step_percent: Annotated[int | None, Field(examples=[10])] = None
    """Share of the fleet in one step; all-at-once has none."""

    @model_validator(mode="after")
    def _step_of_the_strategy(self) -> Self:
        if self.strategy == "all-at-once":
            if self.step_percent is not None:
                raise ValueError("step_percent: all-at-once has no steps; leave it out, or write canary")
            return self
        least, most = STEP_PERCENT[self.strategy]
        if self.step_percent is None or not least <= self.step_percent <= most:
            raise ValueError(
                f"step_percent: {json.dumps(self.step_percent)} is no step of {self.strategy}; "
                f"write {least} to {most}, e.g. {max(least, 10)}"
            )
        return self


class VpcSettings(_Section):
    """Where the instances have a network interface of the account's own."""

    subnet_ids: Annotated[list[SubnetId], Field(min_length=1, max_length=16, examples=['["subnet-0abc1234"]'])]
    """In zones that have the instance type; with a gateway endpoint for S3, by which the model comes."""
    security_group_ids: Annotated[
        list[SecurityGroupId], Field(min_length=1, max_length=5, examples=['["sg-0abc1234"]'])
    ]


class CaptureSettings(_Section):
    """What is kept of requests and answers, under `captured/` of the model store."""

    percent: Annotated[int, Field(ge=1, le=100, examples=[10])]
    """Share of the requests."""


class ChallengerSettings(_Section):
    """Another digest of the same model beside the one that is served."""

    digest: Annotated[str, Field(pattern=_DIGEST, examples=["a digest: 64 hexadecimal digits"])]
    mode: Annotated[Literal["production", "shadow"], Field(examples=["shadow"])]
    """production: it answers its share. shadow: it gets copies, and its answers are dropped."""
    percent: Annotated[int, Field(ge=1, le=100, examples=[10])]
    """Share of the requests."""

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if self.mode == "production" and self.percent == 100:  # noqa: PLR2004 - all of them
            raise ValueError("percent: 100 leaves nothing to the model itself; write 1 to 99, or set model.digest")
        return self


class RecommendationSettings(_Section):
    """A load test of the endpoint's model by Inference Recommender, paid for once for each digest."""

    role_arn: Annotated[
        str, Field(pattern=r"^arn:aws[\w-]*:iam::\d{12}:role/", examples=["arn:aws:iam::111122223333:role/recommender"])
    ]
    """Role with AWS's AmazonSageMakerFullAccess and read access to the model store, for the job makes endpoints."""
    instance_types: Annotated[list[str], Field(min_length=1, max_length=10, examples=['["ml.g4dn.xlarge"]'])]

    @field_validator("instance_types")
    @classmethod
    def _g4dn(cls, value: list[str]) -> list[str]:
        for each in value:
            if each not in G4DN_TYPES:
                raise ValueError(f'holds "{each}", which is not a g4dn type; any of {", ".join(G4DN_TYPES)}')
        if len(set(value)) != len(value):
            raise ValueError("names a type twice; write each once")
        return value


class SageMakerSettings(_Section):
    """Target 1: a SageMaker endpoint."""

    enabled: Annotated[bool, Field(examples=["true"])]
    instance_type: Annotated[str, Field(examples=["ml.g4dn.xlarge"])]
    deployment: DeploymentSettings
    scaling_metric: Annotated[ScalingMetric, Field(examples=["invocations"])] = "invocations"
    """What the scaler tracks: invocations per minute, or concurrency, which tells of more traffic within seconds."""
    alarm_topic_arn: Annotated[
        str | None, Field(pattern=r"^arn:aws[\w-]*:sns:", examples=["arn:aws:sns:us-east-1:111122223333:on-call"])
    ] = None
    """SNS topic that alarms are sent to; left out: they are seen in CloudWatch alone."""
    kms_key_arn: Annotated[
        str | None,
        Field(pattern=r"^arn:aws[\w-]*:kms:.*:key/", examples=["arn:aws:kms:us-east-1:111122223333:key/0a1b2c3d"]),
    ] = None
    """Key that encrypts the model store and what is captured; left out: S3's own."""
    vpc: VpcSettings | None = None
    """Left out: the instances are in SageMaker's own network."""
    capture: CaptureSettings | None = None
    """Left out: nothing is kept of requests and answers."""
    challenger: ChallengerSettings | None = None
    """Left out: one digest is served."""
    recommendation: RecommendationSettings | None = None
    """Left out: nothing is measured."""

    @field_validator("instance_type")
    @classmethod
    def _g4dn(cls, value: str) -> str:
        return _one_of(G4DN_TYPES, "a g4dn type")(value)


class GkeSettings(_Section):
    """Target 2: GKE clusters with T4 nodes."""

    enabled: Annotated[bool, Field(examples=["true"])]
    machine_type: Annotated[str, Field(examples=["n1-standard-8"])]
    """Machine of a T4 node."""
    regions: Annotated[list[str], Field(min_length=1, examples=['["us-central1"]'])]
    """One cluster in each; the traffic is planned as spread evenly."""
    kubeconfig: Annotated[str | None, Field(min_length=1, examples=["~/.kube/config"])] = None
    """Path of the kubeconfig of a cluster that is there already: no network, cluster or identity is made."""
    authorized_networks: Annotated[list[str], Field(examples=['["203.0.113.0/24"]'])]
    """CIDR blocks that may reach the control planes; empty: only from within their networks."""
    http_port: Annotated[int, Field(ge=1, le=65535, examples=[8000])]
    """Port of the load balancer for Triton's HTTP protocol."""
    grpc_port: Annotated[int, Field(ge=1, le=65535, examples=[8001])]
    """Port of the load balancer for Triton's gRPC protocol."""

    @field_validator("machine_type")
    @classmethod
    def _measured_machine(cls, value: str) -> str:
        return _one_of(tuple(known.name for known in MACHINES), "a machine type with a T4 that was measured")(value)

    @field_validator("regions")
    @classmethod
    def _with_t4s(cls, value: list[str]) -> list[str]:
        for region in value:
            if region not in T4_ZONES:
                raise ValueError(f'holds "{region}", which has no T4; any of {", ".join(T4_ZONES)}')
        if len(set(value)) != len(value):
            raise ValueError("names a region twice; write each once")
        return value

    @field_validator("authorized_networks")
    @classmethod
    def _narrow(cls, value: list[str]) -> list[str]:
        for block in value:
            try:
                network = ip_network(block)
            except ValueError as error:
                raise ValueError(f"holds no CIDR block: {error}; write e.g. 203.0.113.0/24") from error
            if network.prefixlen == 0:
                raise ValueError(f'holds "{block}", which opens the control planes to everyone; name your own block')
        return value

    @model_validator(mode="after")
    def _two_ports(self) -> Self:
        if self.http_port == self.grpc_port:
            raise ValueError(
                f"grpc_port: {self.grpc_port} is http_port too; write another, e.g. {self.http_port % 65535 + 1}"
            )
        return self

    @model_validator(mode="after")
    def _one_cluster_of_ones_own(self) -> Self:
        if self.kubeconfig is not None and len(self.regions) != 1:
            raise ValueError("regions: a kubeconfig names one cluster; write its region alone, or leave kubeconfig out")
        return self


class Settings(_Section):
    """All sections of a stack file, and the region and project of its providers."""

    model: ModelSettings
    triton: TritonSettings
    slo: SloSettings
    traffic: TrafficSettings
    capacity: CapacitySettings
    sagemaker: SageMakerSettings
    gke: GkeSettings
    aws_region: Annotated[str, Field(alias="aws:region", examples=["us-east-1"])]
    gcp_project: Annotated[str, Field(alias="gcp:project", min_length=1, examples=["my-project"])]

    @field_validator("aws_region")
    @classmethod
    def _has_image(cls, value: str, info: ValidationInfo) -> str:
        triton = info.data.get("triton")
        if triton is not None:
            triton_releases()[triton.release].sagemaker_image(value)
        return value

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if not self.sagemaker.enabled and not self.gke.enabled:
            raise ValueError(
                "sagemaker.enabled and gke.enabled are both false: nothing would be deployed; set one to true"
            )
        return self


def read_stack_file(path: Path) -> Settings:
    """Read and check a stack file without Pulumi, as a program would see it.

    Raises:
        SettingsError: It cannot be read, or what it says cannot be used: one line an error.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path.name}: cannot be read: {' '.join(str(error).split())}") from error
    try:
        config = TypeAdapter(dict[str, Any]).validate_python(content["config"])
    except (TypeError, KeyError, ValidationError) as error:
        raise SettingsError(
            f"{path.name}: has no `config:`; write its sections below one, as in Pulumi.local.yaml"
        ) from error
    return read_settings(
        {key: value if isinstance(value, str) else json.dumps(value, default=str) for key, value in config.items()}
    )


def stack_config() -> dict[str, str]:
    """Every configuration value of the running stack by its full key, sections as JSON text."""
    return {**get_config_env(), **CONFIG.get()}


def read_settings(config: Mapping[str, str]) -> Settings:
    """Read and check the settings of the stack.

    Args:
        config: Every configuration value of the stack by its full key, as Pulumi hands it to a program: sections are
            JSON objects.

    Raises:
        SettingsError: One line for each thing that is wrong, with its path in the stack file, the value, why it is
            wrong and what works.
    """
    sections: dict[str, Any] = {}
    errors: list[str] = []
    for key, text in sorted(config.items()):
        namespace, _, section = key.partition(":")
        if namespace == PROJECT:
            try:
                sections[section] = json.loads(text, parse_constant=_refuse_constant)
            except ValueError:
                errors.append(
                    f"{key}: {json.dumps(text)} is not a section; write its keys below it, as in Pulumi.local.yaml"
                )
        elif key in ("aws:region", "gcp:project"):
            sections[key] = text
    try:
        settings = Settings.model_validate(sections)
    except ValidationError as error:
        unreadable = {line.partition(":")[2].partition(":")[0] for line in errors}
        errors += [
            printable(_line(detail))
            for detail in error.errors()
            if not unreadable.intersection(map(str, detail["loc"][:1]))
        ]
        raise SettingsError("\n".join(errors)) from error
    if errors:
        raise SettingsError("\n".join(errors))
    return settings


def _refuse_constant(name: str) -> float:
    return float(name.replace("Infinity", "inf"))


def _line(detail: ErrorDetails) -> str:
    """Say one error of pydantic in one line: path, value, why, what works."""
    location = [str(part) for part in detail["loc"]]
    path = ".".join(location) if ":" in "".join(location[:1]) else f"{PROJECT}:{'.'.join(location)}"
    message = str(detail.get("ctx", {}).get("error", detail["msg"]))
    match detail["type"]:
        case "extra_forbidden":
            return f"{path}: unknown key; known here: {_known_keys(location[:-1])}"
        case "missing":
            return f"{path}: missing; {_works(location)}"
        case "model_type":
            return f"{path}: {_shown(detail['input'])} is not a section; {_works(location)}"
        case "value_error" if isinstance(detail["input"], dict):
            # A check of a whole section, which names the key itself.
            return f"{path}.{message}" if location else f"{PROJECT}:{message}"
        case "value_error":
            return f"{path}: {message}" if message.startswith('"') else f"{path}: {_shown(detail['input'])} {message}"
        case _:
            reason = re.sub("^(Input|String|List) ", "", message)
            return f"{path}: {_shown(detail['input'])} {reason}; {_works(location)}"


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _works(location: list[str]) -> str:
    """What a key takes: its example, or the keys of a section."""
    *path, name = [part for part in location if not part.isdigit()]  # an item takes what its list takes
    fields = _section(path).model_fields
    found = next(field for key, field in fields.items() if name in (key, field.alias))
    return f"write e.g. {found.examples[0]}" if found.examples else f"write its keys: {_known_keys([*path, name])}"


def _section(location: list[str]) -> type[BaseModel]:
    """The section at a path; `Settings` itself at the empty one."""
    section: type[BaseModel] = Settings
    for name in location:
        if name in section.model_fields:
            section = _section_of(section.model_fields[name].annotation) or section
    return section


def _section_of(annotation: object) -> type[BaseModel] | None:
    """The section in an annotation such as `Section`, `Section | None` or `list[Section]`; None where it has none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_of, get_args(annotation))), None)


def _known_keys(location: list[str]) -> str:
    return ", ".join(field.alias or name for name, field in _section(location).model_fields.items())
