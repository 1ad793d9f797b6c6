"""Sample requests to a model: the body of one, and the archive that a load test draws them from."""

import gzip
import hashlib
import io
import json
import tarfile
from typing import Any, Final

from model_repo.sample import Array, sample_inputs
from model_repo.spec import ModelSpec
from model_repo.store import Store

CONTENT_TYPE: Final = "application/json"

_SAMPLES: Final = 4
"""Different requests in an archive: a text's length changes what a batch takes, and equal ones hit a response cache."""

_STORED: Final = 0
"""gzip's level: what zlib makes of the others differs by its release, and the archive is named by its bytes."""


def request_body(spec: ModelSpec, inputs: dict[str, Array]) -> dict[str, Any]:
    """The JSON of KServe's v2 protocol, which Triton speaks wherever it runs.

    https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol

    Args:
        spec: The model.
        inputs: One batch, by input name.
    """
    return {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.dtype,
                "shape": list(inputs[tensor.name].shape),
                "data": inputs[tensor.name].ravel().tolist(),
            }
            for tensor in spec.inputs
        ]
    }


def payload_archive(spec: ModelSpec) -> bytes:
    """A gzip compressed tar archive of request bodies, one sample each: the same bytes for the same spec.

    It is what `SamplePayloadUrl` of
    https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_RecommendationJobPayloadConfig.html points to.
    """
    archive = io.BytesIO()
    # Without a time, a name or an owner of this machine; a `TarInfo`'s own are 0 and empty.
    with (
        gzip.GzipFile("", "wb", _STORED, archive, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w|", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for seed in range(_SAMPLES):
            body = json.dumps(request_body(spec, sample_inputs(spec, 1, seed)), sort_keys=True).encode()
            entry = tarfile.TarInfo(f"{spec.name}-{seed}.json")
            entry.size, entry.mode = len(body), 0o644
            tar.addfile(entry, io.BytesIO(body))
    return archive.getvalue()


def upload_payload(store: Store, spec: ModelSpec) -> str:
    """Put the archive of a model's sample requests into a store, unless it is there; return its URL.

    Raises:
        model_repo.store.StoreError: The store cannot be written.
    """
    content = payload_archive(spec)
    key = f"payloads/{hashlib.sha256(content).hexdigest()}.tar.gz"
    store.put_new(key, content, store.checksum(content))
    return f"{store.url}/{key}"
