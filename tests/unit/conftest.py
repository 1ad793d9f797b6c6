"""The program under Pulumi's mocks, and a repository for it to serve."""

import runpy
from pathlib import Path
from typing import Any

import pulumi
import pulumi.runtime
import pytest
from program import ROOT, Recorder, RunProgram, as_handed_to_a_program

from model_repo.build import ModelArtifact
from model_repo.exported import ExportedModel
from model_repo.manifest import MANIFEST_NAME, Manifest, ManifestFile


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelArtifact:
    """A repository of this machine's cache; the program reads only its manifest, so the model is a few bytes."""
    monkeypatch.setenv("TRITON_STACK_CACHE", str(tmp_path))
    folder = tmp_path / "repositories" / "one"
    for path in ("bert-small/config.pbtxt", "bert-small/1/model.onnx"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    manifest = Manifest.of_folder(
        folder, name="bert-small", variant="trt-db", precision="fp32", device="cpu", weights="seeded-random"
    )
    (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return ModelArtifact(manifest, folder)


@pytest.fixture
def run_program(recorder: Recorder, artifact: ModelArtifact, monkeypatch: pytest.MonkeyPatch) -> RunProgram:
    """Run the whole of `__main__` for a stack with a configuration."""

    def built(*_: object) -> ModelArtifact:
        return artifact

    def prepared(*_: object) -> tuple[ExportedModel, ModelArtifact]:
        onnx = ManifestFile(path="model.onnx", size_bytes=1, sha256="0" * 64)
        return ExportedModel(weights="hub@1", parity_error=0, files=(onnx,)), artifact

    monkeypatch.setattr("stacks.model.built", built)
    monkeypatch.setattr("stacks.model.prepared_engine", prepared)

    def run(stack: str, config: dict[str, Any]) -> None:
        pulumi.runtime.set_mocks(recorder, project="triton-stack", stack=stack, preview=False)
        pulumi.runtime.set_all_config(as_handed_to_a_program(config))

        @pulumi.runtime.test  # pyright: ignore[reportUnknownMemberType] - untyped in the SDK
        def program() -> None:
            runpy.run_path(str(ROOT / "__main__.py"))

        program()

    return run
