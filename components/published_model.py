"""A model repository in a model store, on either cloud."""

import sys
from typing import Any, NotRequired, TypedDict

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider

from model_repo.build import ModelArtifact
from model_repo.cache import cache_path
from model_repo.manifest import repository_prefix


class PublishedModelArgs(TypedDict):
    """What is published, and where to."""

    store: pulumi.Input[str]
    """URL of the model store: `s3://<bucket>` or `gs://<bucket>`."""
    artifact: ModelArtifact
    """A folder of this machine's cache with its manifest."""
    prefix: NotRequired[str]
    """Where in the store, without a slash at its end; left out where it is to be served from."""


class PublishedModel(pulumi.ComponentResource):
    """The files of one repository under `models/<name>/<digest>/`, the manifest last.

    A preview shows digest, size and files, and which of them change. What is in the store already is not sent again,
    and what another writer put there is never overwritten: that is an error. The bytes stay when the stack moves on to
    another digest, and when it goes. It needs the credentials that boto3 and google-cloud-storage find by themselves:
    a provider's own (`aws:profile`, `gcp:credentials`) do not reach it.
    """

    uri: pulumi.Output[str]
    """`s3://…` or `gs://…` of the repository, without a slash at its end, known once all of it is there."""

    def __init__(self, name: str, args: PublishedModelArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:index:PublishedModel", name, {}, opts)
        artifact = args["artifact"]
        manifest = artifact.manifest
        prefix = args.get("prefix", repository_prefix(manifest.name, manifest.digest))
        repository = _Repository(
            f"{name}-repository",
            {
                "store": args["store"],
                "prefix": prefix,
                "folder": artifact.folder.relative_to(cache_path()).as_posix(),
                "digest": manifest.digest,
                "size": f"{manifest.size_bytes / 1e6:.1f} MB",
                "files": {file.path: f"{file.size_bytes} bytes, SHA-256 {file.sha256}" for file in manifest.files},
            },
            pulumi.ResourceOptions(parent=self),
        )
        self.uri = pulumi.Output.format("{}/{}", repository.store, prefix)
        self.register_outputs({"uri": self.uri})


class _Publisher(ResourceProvider):
    """Runs in a process of its own, from what is pickled into the state: so what it needs is imported as it runs."""

    serialize_as_secret_always = False

    def create(self, props: dict[str, Any]) -> CreateResult:
        from model_repo.manifest import MANIFEST_NAME, Manifest  # noqa: PLC0415
        from model_repo.publish import publish  # noqa: PLC0415
        from model_repo.store import open_store  # noqa: PLC0415

        # Pulumi shows the traceback of whatever is raised here: of an error that is the user's, its text says it all.
        sys.tracebacklimit = 0
        folder = cache_path() / props["folder"]
        manifest = Manifest.from_bytes((folder / MANIFEST_NAME).read_bytes())
        published = publish(folder, manifest, open_store(props["store"]), lambda _: None, props["prefix"])
        return CreateResult(published.uri, props)

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        changed = [key for key in ("store", "prefix", "digest") if olds[key] != news[key]]
        return DiffResult(changes=bool(changed), replaces=changed)

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        from model_repo.manifest import MANIFEST_NAME  # noqa: PLC0415
        from model_repo.store import open_store  # noqa: PLC0415

        manifest = f"{props['prefix']}/{MANIFEST_NAME}"
        return ReadResult("" if open_store(props["store"]).get(manifest) is None else id_, props)


class _Repository(Resource, module="triton-stack", name="ModelRepository"):
    store: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(_Publisher(), name, props, opts)
