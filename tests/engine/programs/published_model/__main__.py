"""One repository of this machine's cache, published to one store."""

import pulumi

from components.published_model import PublishedModel
from model_repo.build import ModelArtifact, repository_folder
from model_repo.manifest import MANIFEST_NAME, Manifest

config = pulumi.Config()
folder = repository_folder(config.require("digest"))
manifest = Manifest.from_bytes((folder / MANIFEST_NAME).read_bytes())
store, artifact = config.require("store"), ModelArtifact(manifest, folder)
pulumi.export("uri", PublishedModel("model", {"store": store, "artifact": artifact}).uri)
