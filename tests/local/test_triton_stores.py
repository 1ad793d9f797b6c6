"""A real Triton that loads a published repository straight from S3 and from Cloud Storage."""

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from object_stores import BUCKET, Bucket, gcs_emulator, s3_emulator

from localcloud.triton import Triton, install
from model_repo.build import ModelArtifact, build
from model_repo.manifest import repository_prefix
from model_repo.publish import publish
from model_repo.recipe import named_recipe

triton_http: Any = importlib.import_module("tritonclient.http")  # untyped

TEXTS = [["a film to see"], ["two hours of my life"]]


@pytest.fixture(scope="module")
def artifact() -> ModelArtifact:
    """An ensemble: its own version folder has no model, and a store has no empty folders."""
    return build(named_recipe("bert-small", "trt-ig-db", serving={"ensemble": True}), print)


def answers(bucket: Bucket, artifact: ModelArtifact, folder: Path) -> tuple[list[bytes], np.ndarray[Any, Any]]:
    """Labels and probabilities, by a Triton that has nothing but the bucket's address."""
    publish(artifact.folder, artifact.manifest, bucket.open(), lambda _: None)
    prefix = repository_prefix(artifact.name, artifact.digest)
    endpoint = bucket.environment.get("AWS_ENDPOINT_URL_S3") or bucket.environment["STORAGE_EMULATOR_HOST"]
    address = f"{bucket.url}/{prefix}" if bucket.url.startswith("gs:") else f"s3://{endpoint}/{BUCKET}/{prefix}"
    triton = Triton(
        install(folder / "triton"),
        [f"--model-repository={address}", "--allow-grpc=false", "--allow-metrics=false"],
        bucket.environment | {"CLOUD_STORAGE_EMULATOR_ENDPOINT": endpoint},
        ports=[8000],
        ready=(8000, "/v2/health/ready"),
        seconds=120,
        log=folder / "triton.log",
        outbound=[urlsplit(endpoint).port or 80],
    )
    try:
        host, port = triton.pod.addresses[8000]
        text = triton_http.InferInput("text", [len(TEXTS), 1], "BYTES")
        text.set_data_from_numpy(np.array(TEXTS, dtype=np.object_))
        with triton_http.InferenceServerClient(f"{host}:{port}", network_timeout=60) as client:
            answer = client.infer(artifact.name, [text])
        return list(answer.as_numpy("label").flatten()), answer.as_numpy("probability")
    finally:
        triton.stop()


def test_the_same_repository_gives_the_same_answers_from_both_stores(artifact: ModelArtifact, tmp_path: Path) -> None:
    stores: list[Callable[[Path], AbstractContextManager[Bucket]]] = [s3_emulator, gcs_emulator]
    given: list[tuple[list[bytes], np.ndarray[Any, Any]]] = []
    for store in stores:
        folder = tmp_path / store.__name__
        folder.mkdir()
        with store(folder) as bucket:
            given.append(answers(bucket, artifact, folder))
    (labels, probabilities), (same_labels, same_probabilities) = given
    assert labels == same_labels
    assert np.array_equal(probabilities, same_probabilities)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
