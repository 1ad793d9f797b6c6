"""Sample requests: what a load test sends."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest

from model_repo.payload import payload_archive, request_body
from model_repo.sample import sample_inputs
from model_repo.spec import load_spec, spec_names


@pytest.mark.parametrize("name", spec_names())
def test_the_archive_holds_requests_of_the_spec_s_tensors_one_sample_each(name: str) -> None:
    spec = load_spec(name)
    with tarfile.open(fileobj=io.BytesIO(payload_archive(spec)), mode="r:gz") as tar:
        bodies = [json.loads(file.read()) for entry in tar if (file := tar.extractfile(entry))]
    assert len({json.dumps(body) for body in bodies}) == len(bodies) > 1
    for body in bodies:
        for tensor, sent in zip(spec.inputs, body["inputs"], strict=True):
            assert (sent["name"], sent["datatype"], sent["shape"]) == (tensor.name, tensor.dtype, [1, *tensor.dims])
            assert len(sent["data"]) == np.prod(tensor.dims)


def test_the_archive_is_the_same_bytes_whenever_and_by_whomever_it_is_made() -> None:
    archive = payload_archive(load_spec("bert-small"))
    assert payload_archive(load_spec("bert-small")) == archive
    assert archive[4:8] == bytes(4)  # gzip's time
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        assert {(entry.mtime, entry.uid, entry.gid, entry.uname) for entry in tar} == {(0, 0, 0, "")}
    # Not compressed, for zlib's releases differ: the tar's bytes stand in it as they are.
    assert gzip.decompress(archive)[:512] in archive


def test_a_request_s_numbers_are_the_inputs() -> None:
    spec = load_spec("bert-small")
    inputs = sample_inputs(spec, 2)
    for sent in json.loads(json.dumps(request_body(spec, inputs)))["inputs"]:
        assert np.array_equal(np.reshape(sent["data"], sent["shape"]), inputs[sent["name"]])
