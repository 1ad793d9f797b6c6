"""The program under Pulumi's mocks, and a repository for it to serve."""

import runpy
from pathlib import Path
from typing import Any

import pulumi
import pulumi.runtime
import pytest
from program import ROOT, Recorder, RunProgram, as_handed_to_a_program

from model_repo.build import ModelArtifact
from model_repo.manifest import MANIFEST_NAME, Manifest


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def artifact(tmp_path: Path) -> ModelArtifact:
    """A repository on this machine; the program reads only its manifest, so the model is a few bytes."""
    for path in ("bert-small/config.pbtxt", "bert-small/1/model.onnx"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    manifest = Manifest.of_folder(
        tmp_path, name="bert-small", variant="trt-db", precision="fp32", device="cpu", weights="seeded-random"
    )
    (tmp_path / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return ModelArtifact(manifest, tmp_path)


@pytest.fixture
def run_program(recorder: Recorder, artifact: ModelArtifact, monkeypatch: pytest.MonkeyPatch) -> RunProgram:
    """Run the whole of `__main__` for a stack with a configuration."""

    def built(*_: object) -> ModelArtifact:
        return artifact

    monkeypatch.setattr("stacks.model.built", built)

    def run(stack: str, config: dict[str, Any]) -> None:
        pulumi.runtime.set_mocks(recorder, project="triton-stack", stack=stack, preview=False)
        pulumi.runtime.set_all_config(as_handed_to_a_program(config))

        @pulumi.runtime.test  # pyright: ignore[reportUnknownMemberType] - untyped in the SDK
        def program() -> None:
            runpy.run_path(str(ROOT / "__main__.py"))

        program()

    return run
