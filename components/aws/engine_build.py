"""A TensorRT engine, built on a T4 of SageMaker's and published as a model repository."""

import json
import sys
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import pulumi
from pulumi.dynamic import CheckResult, CreateResult, DiffResult, Resource, ResourceProvider

from components.aws.sagemaker_role import Statement, container_statements, key_statements, sagemaker_role
from model_repo.engine import EngineOrder
from model_repo.manifest import repository_prefix

if TYPE_CHECKING:
    from components.aws.engine_job import EngineRequest


class EngineBuildArgs(TypedDict):
    """Which engine, from what, to where."""

    order: EngineOrder
    """What is built; its key decides whether it is."""
    bucket: pulumi.Input[str]
    """Name of the model store's bucket."""
    bucket_arn: pulumi.Input[str]
    source_uri: pulumi.Input[str]
    """The order's `source_prefix` in the bucket as `s3://…`, once the ONNX file and its samples are all there."""
    image: str
    """Image URI of the SageMaker Triton container of the order's release, in the region."""
    region: str
    kms_key_arn: NotRequired[pulumi.Input[str]]
    """Key of the bucket; left out where it has S3's own."""


class EngineBuild(pulumi.ComponentResource):
    """An engine under its build key, and the repository around it under `models/<name>/<digest>/`.

    An engine that the store has is never built again, whichever stack or variant asked for it. Nothing is deleted with
    the stack: another may serve it. An update that is interrupted leaves the job running; the next one waits for it.
    It makes no bucket and uploads no ONNX file.
    """

    digest: pulumi.Output[str]
    """Digest of the repository; unknown in a preview of one that is yet to be published."""
    uri: pulumi.Output[str]
    """`s3://…` of the repository, without a slash at its end, known once all of it is there."""

    def __init__(self, name: str, args: EngineBuildArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:aws:EngineBuild", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        role_arn = sagemaker_role(name, _statements(args), child)
        build = _Build(
            f"{name}-engine",
            {
                # As text: numbers would become floats on their way to the provider.
                "order": args["order"].model_dump_json(),
                "region": args["region"],
                "bucket": args["bucket"],
                "source_uri": args["source_uri"],
                "image": args["image"],
                "role_arn": role_arn,
                "digest": None,
            },
            child,
        )
        self.digest = build.digest
        self.uri = pulumi.Output.all(args["bucket"], build.digest).apply(
            lambda values: f"s3://{values[0]}/{repository_prefix(args['order'].manifest['name'], values[1])}"
        )
        self.register_outputs({"digest": self.digest, "uri": self.uri})


class _Provider(ResourceProvider):
    """Finds or builds. Pulumi stores it with the resource: it holds nothing.

    It runs in a process of its own, which alone imports the clients of AWS.
    """

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Say, in the preview too, whether there is anything to compile."""
        if _olds.get("order") != news["order"]:
            key = json.loads(news["order"])["key"][:12]
            pulumi.log.info(f"engine {key}: {_prospect(news)}")
        return CheckResult(news, [])

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Another order or another store is another engine; who builds it, and from which copy, is not."""
        replaces = [name for name in ("bucket", "region") if _olds.get(name) != _news.get(name)]
        # What is told apart by `source_prefix` alone is the same ONNX file with samples of another machine.
        before, after = ({**json.loads(each["order"]), "source_prefix": ""} for each in (_olds, _news))
        if before != after:
            replaces.append("order")
        return DiffResult(changes=bool(replaces), replaces=replaces)

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Build, unless the store has it."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        from components.aws.engine_job import EngineBuildError, EngineJob  # noqa: PLC0415

        try:
            digest = EngineJob(_request(props), pulumi.log.info).run()
        except (EngineBuildError, BotoCoreError, ClientError):
            # Pulumi prints the traceback of what a provider raises; of these, the text says all.
            sys.tracebacklimit = 0
            raise
        return CreateResult(digest, {**props, "digest": digest})


class _Build(Resource, module="triton-stack", name="EngineBuild"):
    digest: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(_Provider(), name, props, opts)


def _request(props: dict[str, Any]) -> "EngineRequest":
    from components.aws.engine_job import EngineRequest  # noqa: PLC0415

    names = ("region", "bucket", "source_uri", "image", "role_arn")
    return EngineRequest(order=json.loads(props["order"]), **{name: props[name] for name in names})


def _prospect(props: dict[str, Any]) -> str:
    """What an update would do, as far as it can be known without one."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    from components.aws.engine_job import INSTANCE_TYPE, EngineJob  # noqa: PLC0415

    will = f"will compile on {INSTANCE_TYPE}, for up to an hour"
    if not isinstance(props["bucket"], str) or props["bucket"] == pulumi.runtime.rpc.UNKNOWN:
        return f"{will}: its bucket is not there yet"
    try:
        there = EngineJob(_request({**props, "source_uri": "", "role_arn": ""}), pulumi.log.debug).is_built()
    except (BotoCoreError, ClientError) as error:
        return f"{will}, unless it has been built: the model store does not answer ({error})"
    return "compiled before, will not compile" if there else will


def _statements(args: EngineBuildArgs) -> list[Statement]:
    """What the job needs, and no more.

    Actions: https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html#sagemaker-roles-createprocessingjob-perms
    """
    order = args["order"]
    builds, sources = f"builds/triton-engine-{order.key[:16]}-*", f"{order.source_prefix}/*"
    return [
        {
            "Effect": "Allow",
            "Action": "s3:GetObject",
            "Resource": [pulumi.Output.format("{}/{}", args["bucket_arn"], path) for path in (builds, sources)],
        },
        {
            "Effect": "Allow",
            "Action": "s3:PutObject",
            "Resource": pulumi.Output.format("{}/{}", args["bucket_arn"], builds),
        },
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": args["bucket_arn"],
            "Condition": {"StringLike": {"s3:prefix": [builds, sources]}},
        },
        *container_statements(args["image"], "/aws/sagemaker/ProcessingJobs"),
        *key_statements(args.get("kms_key_arn"), args["region"], writes=True),
    ]
