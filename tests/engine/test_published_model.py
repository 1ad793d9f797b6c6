"""A published model, by the real engine, on both stores: what a preview shows, what an update does, what stays."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from pulumi_stack import PulumiError, Stack

from localcloud.cloud import LocalCloud
from model_repo.build import repository_folder
from model_repo.manifest import MANIFEST_NAME, Manifest, repository_prefix
from model_repo.store import Store, open_store

ROOT = Path(__file__).parents[2]


@dataclass
class Published:
    """A stack of one published model, and the store that it is in."""

    stack: Stack
    store: Store

    def key(self, manifest: Manifest, path: str) -> str:
        return f"{repository_prefix(manifest.name, manifest.digest)}/{path}"

    def put(self, weights: bytes) -> Manifest:
        """Leave a repository in the cache, as a build does, and let the stack name it."""
        folder = repository_folder("being-made")
        for path, content in {"bert/config.pbtxt": b'name: "bert"', "bert/1/model.onnx": weights}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        manifest = Manifest.of_folder(
            folder, name="bert", variant="trt-db", precision="fp32", device="cpu", weights="hub@1"
        )
        (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        folder.rename(repository_folder(manifest.digest))
        self.stack.configure(digest=manifest.digest)
        return manifest

    def step(self) -> dict[str, Any]:
        """What a preview shows of the repository, and of nothing else."""
        (step,) = [each for each in self.stack.preview() if "dynamic" in each["urn"]]
        return step


@pytest.fixture(scope="module", params=["s3", "gs"])
def published(
    request: pytest.FixtureRequest,
    cloud: LocalCloud,
    new_stack: Callable[..., Stack],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Published]:
    own = {"PYTHONPATH": str(ROOT), "TRITON_STACK_CACHE": str(tmp_path_factory.mktemp("cache"))}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in (cloud.environment() | own).items():
            patch.setenv(key, value)
        url = f"{request.param}://{_make_bucket(request.param, 'published-models')}"
        stack = new_stack("published_model", store=url)
        stack.environment |= own
        yield Published(stack, open_store(url))


def _make_bucket(scheme: str, name: str) -> str:
    if scheme == "s3":
        session: Any = boto3.Session()  # its types are those of a few services
        session.client("s3").create_bucket(Bucket=name)
    else:
        client: Any = cast("Any", storage).Client("local", AnonymousCredentials())
        client.create_bucket(name)
    return name


def test_a_preview_shows_the_digest_the_size_and_which_files_change(published: Published) -> None:
    first = published.put(b"weights" * 10000)
    inputs = published.step()["newState"]["inputs"]
    assert (inputs["digest"], inputs["size"]) == (first.digest, "0.1 MB")
    assert set(inputs["files"]) == {"bert/config.pbtxt", "bert/1/model.onnx"}
    published.stack.up()
    second = published.put(b"other weights")
    shown = published.stack.pulumi("preview", "--diff")
    assert f'"{second.digest}"' in shown
    lines = [line.strip() for line in shown.splitlines()]
    changed = [line.removeprefix("~ ").split(":")[0] for line in lines if line.startswith("~ ") and "SHA-256" in line]
    assert changed == ["bert/1/model.onnx"]


def test_an_update_publishes_the_manifest_last_and_then_nothing_changes(published: Published) -> None:
    manifest = published.put(b"some weights")
    uri = published.stack.up()["uri"]
    assert uri == f"{published.store.url}/{repository_prefix('bert', manifest.digest)}"
    assert published.store.get(published.key(manifest, MANIFEST_NAME)) == manifest.to_bytes()
    assert published.store.get(published.key(manifest, "bert/1/model.onnx")) == b"some weights"
    assert published.stack.preview() == []


def test_bytes_stay_when_the_stack_moves_on_and_when_it_goes(published: Published) -> None:
    first = published.put(b"first")
    published.stack.up()
    second = published.put(b"second")
    published.stack.up()
    published.stack.destroy()
    for manifest in (first, second):
        assert published.store.get(published.key(manifest, MANIFEST_NAME)) == manifest.to_bytes()


def test_what_was_lost_from_the_store_is_found_by_a_refresh_and_published_again(published: Published) -> None:
    manifest = published.put(b"lost weights")
    published.stack.up()
    published.store.delete([published.key(manifest, MANIFEST_NAME), published.key(manifest, "bert/1/model.onnx")])
    published.stack.refresh()
    assert published.step()["op"] == "create"
    published.stack.up()
    assert published.store.get(published.key(manifest, "bert/1/model.onnx")) == b"lost weights"


def test_the_state_holds_no_path_of_this_machine_and_no_code(published: Published) -> None:
    published.put(b"more weights")
    published.stack.up()
    state = published.stack.pulumi("stack", "export")
    assert str(repository_folder("").parent) not in state
    (resource,) = [each for each in json.loads(state)["deployment"]["resources"] if "dynamic" in each["type"]]
    assert len(resource["inputs"]["__provider"]) < 1000


def test_other_bytes_in_the_store_stop_the_update_and_are_named(published: Published) -> None:
    manifest = published.put(b"weights")
    key = published.key(manifest, "bert/1/model.onnx")
    published.store.put_new(key, b"WEIGHTS", published.store.checksum(b"WEIGHTS"))
    with pytest.raises(PulumiError, match=r"bert/1/model\.onnx") as caught:
        published.stack.up()
    assert 'File "' not in str(caught.value)
    assert published.store.get(key) == b"WEIGHTS"
    assert published.store.get(published.key(manifest, MANIFEST_NAME)) is None
