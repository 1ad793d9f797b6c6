"""A model repository that another model store has, copied as it is."""

import sys
from typing import Any, TypedDict

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider

from model_repo.manifest import repository_prefix


class CopiedModelArgs(TypedDict):
    """Which repository, from where, to where."""

    source: pulumi.Input[str]
    """URL of the model store that has it: `s3://<bucket>` or `gs://<bucket>`."""
    store: pulumi.Input[str]
    """URL of the model store that is to have it too."""
    model: str
    """Name of the model."""
    digest: pulumi.Input[str]
    """Digest of the repository, once the source has all of it."""


class CopiedModel(pulumi.ComponentResource):
    """The same bytes under the same digest: read back and hashed on their way, the manifest written last.

    They pass through this machine's memory, not its disk. What the store has already is not sent again, nothing is
    overwritten, and the bytes stay when the stack goes. Credentials are found as `PublishedModel` finds them.
    """

    uri: pulumi.Output[str]
    """`s3://…` or `gs://…` of the copy, without a slash at its end, known once all of it is there."""

    def __init__(self, name: str, args: CopiedModelArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:index:CopiedModel", name, {}, opts)
        copy = _Copy(f"{name}-copy", {**args}, pulumi.ResourceOptions(parent=self))
        self.uri = pulumi.Output.all(copy.store, copy.digest).apply(
            lambda values: f"{values[0]}/{repository_prefix(args['model'], values[1])}"
        )
        self.register_outputs({"uri": self.uri})


class _Copier(ResourceProvider):
    """Runs in a process of its own, from what is pickled into the state: so what it needs is imported as it runs."""

    serialize_as_secret_always = False

    def create(self, props: dict[str, Any]) -> CreateResult:
        from model_repo.publish import copy  # noqa: PLC0415
        from model_repo.store import open_store  # noqa: PLC0415

        # Pulumi shows the traceback of whatever is raised here: of an error that is the user's, its text says it all.
        sys.tracebacklimit = 0
        source, target = open_store(props["source"]), open_store(props["store"])
        return CreateResult(copy(props["model"], props["digest"], source, target, lambda _: None).uri, props)

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        changed = [key for key in ("store", "model", "digest") if olds[key] != news[key]]
        return DiffResult(changes=bool(changed), replaces=changed)

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        from model_repo.manifest import MANIFEST_NAME  # noqa: PLC0415
        from model_repo.store import open_store  # noqa: PLC0415

        manifest = f"{repository_prefix(props['model'], props['digest'])}/{MANIFEST_NAME}"
        return ReadResult("" if open_store(props["store"]).get(manifest) is None else id_, props)


class _Copy(Resource, module="triton-stack", name="ModelCopy"):
    store: pulumi.Output[str]
    digest: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(_Copier(), name, props, opts)
