"""The stand-in for the GCP provider: a GCS emulator for buckets and objects, a record in a file for everything else.

There is no emulator of GKE, networks or IAM. A record is one JSON file for each resource, in the folder that the
environment variable TRITON_STACK_RECORDED names (by default `gcp/` in TRITON_STACK_STATE): removed or edited there, a
resource is gone or has changed, and `refresh` finds it.

A cluster's endpoint and certificate are those of a real control plane on this machine, if the environment variable
TRITON_STACK_CLUSTERS has a kubeconfig for its location: JSON such as {"us-central1": "/path/kubeconfig"}.
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

import yaml
from pulumi.runtime.proto.provider_pb2 import CheckRequest

from localcloud.plugins.base import DEFAULTS, Kind, Object, Provider, ProviderError, Resource, require_loopback, serve
from localcloud.plugins.schema import Value

TIMEOUT_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Row(Kind):
    """One type; the fields are explained in `gcp.yaml`, which is the table."""

    id: str
    outputs: Mapping[str, str] = field(default_factory=dict[str, str])
    protection: str = ""


ROWS = {token: Row(**row) for token, row in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()).items()}
BUCKET = "gcp:storage/bucket:Bucket"
OBJECT = "gcp:storage/bucketObject:BucketObject"
CLUSTER = "gcp:container/cluster:Cluster"


class Gcp(Provider):
    """GCP, as far as it can be had on one machine."""

    package = "gcp"

    def failures(self) -> tuple[type[Exception], ...]:
        """Return what Google's client raises."""
        from google.api_core.exceptions import GoogleAPICallError  # noqa: PLC0415 - a preview starts without it
        from requests.exceptions import RequestException  # noqa: PLC0415 - as above

        return (GoogleAPICallError, RequestException)

    def kind(self, token: str) -> Row:
        """Return the row of a type."""
        if token not in ROWS:
            raise ProviderError(f"The local stand-in for the gcp provider has no {token}; it has {', '.join(ROWS)}.")
        return ROWS[token]

    def known(self) -> Sequence[str]:
        """Return every type of the table."""
        return ("pulumi:providers:gcp", *ROWS)

    def complete(self, request: CheckRequest, olds: Object, news: Object) -> None:
        """Name it; an object is called what the resource is called."""
        if request.type == OBJECT:
            news.setdefault("name", request.name)
        super().complete(request, olds, news)

    def preview(self, resource: Resource) -> Object:
        """Return what is known of a resource that is yet to be created: where it will be."""
        outputs = super().preview(resource)
        return (
            outputs
            | {key: value for key, value in self._place().items() if outputs.get(key) and value}
            | {key: value for key, value in resource.inputs.items() if key != DEFAULTS}
        )

    def _place(self) -> Object:
        config, environment = self.config, os.environ
        project = config.get("project") or environment.get("GOOGLE_CLOUD_PROJECT")
        region = config.get("region") or environment.get("GOOGLE_CLOUD_REGION")
        place = {"project": project, "region": region, "location": config.get("zone") or region}
        return {key: value for key, value in place.items() if value}

    def storage(self) -> Value:
        """Return a client of the GCS emulator.

        Raises:
            ProviderError: the endpoint is not on this machine; nor then is anything else.
        """
        from google.auth.credentials import AnonymousCredentials  # noqa: PLC0415 - as above
        from google.cloud.storage import Client  # noqa: PLC0415 - as above

        given = self.config.get("storageCustomEndpoint") or os.environ.get("STORAGE_EMULATOR_HOST")
        url = urlsplit(require_loopback("gcp", given, "gcp:storageCustomEndpoint"))
        return Client(
            project=self._place().get("project", "local"),
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": f"{url.scheme}://{url.netloc}"},
        )

    def _file(self, token: str, resource_id: str) -> Path:
        state = os.environ.get("TRITON_STACK_STATE")
        folder = os.environ.get("TRITON_STACK_RECORDED") or (state and f"{state}/gcp")
        if not folder:
            raise ProviderError("TRITON_STACK_STATE must name the local cloud's folder, where the records are kept.")
        return Path(folder, token.rpartition(":")[2], f"{quote(resource_id, safe='')}.json")

    def _record(self, resource: Resource, inputs: Object, resource_id: str) -> None:
        """Write down a resource: its inputs and what Google would have answered."""
        row, computed = self.kind(resource.token), self.schema(resource.token).computed
        number = int(hashlib.sha256(resource_id.encode()).hexdigest()[:10], 16)
        values = self._place() | {key: value for key, value in inputs.items() if key != DEFAULTS}
        seen = values | {"id": resource_id, "number": number}
        for key, template in row.outputs.items():
            seen[key] = template.format(**seen)
            values.setdefault(key, int(seen[key]) if computed.get(key) == "integer" else seen[key])
        labels = self.config.get("defaultLabels", {}) | (inputs.get("labels") or inputs.get("resourceLabels") or {})
        values |= {"effectiveLabels": labels, "pulumiLabels": labels}
        if resource.token == CLUSTER:
            values |= _control_plane(values["location"])
        known = computed | self.schema(resource.token).inputs.properties
        file = self._file(resource.token, resource_id)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({key: item for key, item in values.items() if key in known}, indent=2))

    def create(self, resource: Resource) -> Resource:
        """Create it in the emulator, or write it down."""
        storage, inputs = self.storage(), resource.inputs
        try:
            resource_id = self.kind(resource.token).id.format(**(self._place() | inputs))
        except KeyError as missing:
            raise ProviderError(f"{resource.token} needs {missing}, here or in the provider's settings.") from None
        if resource.token == OBJECT:
            self._upload(inputs)
            return replace(resource, id=resource_id)
        named = self.kind(resource.token).name
        if named and self._file(resource.token, resource_id).exists():
            raise ProviderError(f"{resource.token} {resource_id} already exists.")
        if resource.token == BUCKET:
            bucket = storage.bucket(inputs["name"])
            bucket.versioning_enabled = bool(inputs.get("versioning", {}).get("enabled"))
            bucket.create(location=inputs["location"], timeout=TIMEOUT_SECONDS, retry=None)
        self._record(resource, inputs, resource_id)
        return replace(resource, id=resource_id)

    def _upload(self, inputs: Object) -> None:
        blob = self.storage().bucket(inputs["bucket"]).blob(inputs["name"])
        blob.metadata, blob.cache_control = inputs.get("metadata"), inputs.get("cacheControl")
        asset: Object = inputs.get("source") or {}
        body = Path(asset["path"]).read_bytes() if "path" in asset else asset.get("text", inputs.get("content", ""))
        content_type = inputs.get("contentType", "application/octet-stream")
        blob.upload_from_string(body, content_type=content_type, timeout=TIMEOUT_SECONDS, retry=None)

    def read(self, resource: Resource) -> Object | None:
        """Return the emulator's answer, or the record."""
        storage = self.storage()
        if resource.token == OBJECT:
            return self._stored(resource)
        file = self._file(resource.token, resource.id)
        if resource.token == BUCKET and not storage.bucket(resource.id).exists(timeout=TIMEOUT_SECONDS, retry=None):
            file.unlink(missing_ok=True)
        if not file.exists():
            return None
        recorded: Object = json.loads(file.read_text())
        unset = dict.fromkeys(key for key in resource.inputs if key != DEFAULTS and key not in recorded)
        return recorded | unset

    def _stored(self, resource: Resource) -> Object | None:
        given = resource.state | resource.inputs
        blob = self.storage().bucket(given["bucket"]).get_blob(given["name"], timeout=TIMEOUT_SECONDS, retry=None)
        if blob is None:
            return None
        digest = blob.md5_hash or ""
        stored: Object = {
            "bucket": given["bucket"],
            "name": blob.name,
            "outputName": blob.name,
            "contentType": blob.content_type,
            "crc32c": blob.crc32c,
            "generation": int(blob.generation or 0),
            "md5hash": digest,
            "md5hexhash": base64.b64decode(digest).hex(),
            "mediaLink": blob.media_link,
            "selfLink": blob.self_link,
            "storageClass": blob.storage_class,
        }
        if resource.state.get("md5hash") not in (None, digest):  # its bytes were changed: to be uploaded again
            stored |= {key: None for key in ("source", "content") if key in resource.inputs}
        return stored

    def update(self, resource: Resource, news: Object) -> None:
        """Upload it again, or write it down anew."""
        self.storage()
        if resource.token == OBJECT:
            self._upload(news)
        else:
            self._record(resource, news, resource.id)

    def delete(self, resource: Resource) -> None:
        """Delete it; a bucket that holds objects only by `forceDestroy`."""
        from google.api_core.exceptions import NotFound  # noqa: PLC0415 - as above

        storage, row, state = self.storage(), self.kind(resource.token), resource.state
        if row.protection and state.get(row.protection, True):
            raise ProviderError(
                f"{resource.id} cannot be deleted while {row.protection} is true: set it to false first."
            )
        try:
            if resource.token == OBJECT:
                storage.bucket(state["bucket"]).delete_blob(state["name"], timeout=TIMEOUT_SECONDS, retry=None)
            elif resource.token == BUCKET:
                storage.bucket(resource.id).delete(
                    force=bool(state.get("forceDestroy")), timeout=TIMEOUT_SECONDS, retry=None
                )
        except NotFound:
            pass
        if resource.token != OBJECT:
            self._file(resource.token, resource.id).unlink(missing_ok=True)

    def invoke(self, token: str, args: Object) -> Object:
        """Answer which project this is; its number is made from its name."""
        if not token.endswith(":getProject"):
            return super().invoke(token, args)
        project: str = args.get("projectId") or self._place().get("project", "local")
        number = str(int(hashlib.sha256(project.encode()).hexdigest()[:10], 16))
        return {"id": f"projects/{project}", "projectId": project, "name": project, "number": number}


def _control_plane(location: str) -> Object:
    """Return a cluster's endpoint and certificate: of this machine's, or an address that is no one's."""
    clusters: dict[str, str] = json.loads(os.environ.get("TRITON_STACK_CLUSTERS", "{}"))
    if location not in clusters:
        certificate = base64.b64encode(b"no cluster").decode()
        return {"endpoint": "192.0.2.1", "masterAuth": {"clusterCaCertificate": certificate}}  # RFC 5737
    config: Value = yaml.safe_load(Path(clusters[location]).read_text())
    cluster: dict[str, str] = config["clusters"][0]["cluster"]
    return {
        "endpoint": urlsplit(cluster["server"]).netloc,
        "masterAuth": {"clusterCaCertificate": cluster["certificate-authority-data"]},
    }


if __name__ == "__main__":
    serve(Gcp())
