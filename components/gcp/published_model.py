"""A model repository in a Cloud Storage bucket."""

from typing import TypedDict

import pulumi
import pulumi_gcp as gcp

from model_repo.build import ModelArtifact
from model_repo.manifest import MANIFEST_NAME, repository_prefix


class PublishedModelArgs(TypedDict):
    """What is published, and where to."""

    bucket: pulumi.Input[str]
    """Name of the model store's bucket."""
    artifact: ModelArtifact
    """A repository on this machine."""


class PublishedModel(pulumi.ComponentResource):
    """The files of one repository under `models/<name>/<digest>/`, the manifest last.

    A reader that finds the manifest finds every file before it. Objects are kept when the stack moves on to another
    digest. It does not check what the bucket already held: a name has the digest in it, so the bytes are the same.
    """

    uri: pulumi.Output[str]
    """`gs://…` of the repository, without a slash at its end, known once all of it is there."""

    def __init__(self, name: str, args: PublishedModelArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("triton-stack:gcp:PublishedModel", name, {}, opts)
        artifact = args["artifact"]
        prefix = repository_prefix(artifact.name, artifact.digest)

        def put(path: str, after: list[pulumi.Resource]) -> gcp.storage.BucketObject:
            return gcp.storage.BucketObject(
                f"{name}-{artifact.digest[:12]}-{path.replace('/', '-')}",
                bucket=args["bucket"],
                name=f"{prefix}/{path}",
                source=pulumi.FileAsset(str(artifact.folder / path)),
                opts=pulumi.ResourceOptions(parent=self, depends_on=after, retain_on_delete=True),
            )

        files: list[pulumi.Resource] = [put(file.path, []) for file in artifact.manifest.files]
        manifest = put(MANIFEST_NAME, files)
        self.uri = pulumi.Output.format("gs://{}/{}", manifest.bucket, prefix)
        self.register_outputs({"uri": self.uri})
