"""What an engine is built from, without TensorRT: a few bytes for an ONNX file, samples and their right answers."""

import array
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from model_repo.compatibility import triton_releases
from model_repo.engine import EngineOrder, engine_order
from model_repo.exported import ExportedModel
from model_repo.manifest import ManifestFile
from model_repo.recipe import named_recipe

STAND_INS = Path(__file__).parent
ROOT = Path(__file__).parents[2]
ONNX = b"the model"
RELEASE = triton_releases()["25.09"]


def order(variant: str = "trt-db") -> EngineOrder:
    onnx = ManifestFile(path="model.onnx", size_bytes=len(ONNX), sha256=hashlib.sha256(ONNX).hexdigest())
    exported = ExportedModel(weights="hub@1", parity_error=0, files=(onnx,))
    return engine_order(named_recipe("bert-small", variant, "fp16", "t4"), exported, RELEASE, "sources/one")


def install(programs: Path, **environment: str) -> None:
    """Put the stand-ins where a container's image would have NVIDIA's programs; TRTEXEC_FAULT and GPU change them."""
    programs.mkdir(exist_ok=True)
    assignments = " ".join(f"{key}='{value}'" for key, value in environment.items())
    for name in ("trtexec", "nvidia-smi"):
        (programs / name).write_text(f'#!/bin/sh\n{assignments} exec {STAND_INS / name} "$@"\n')
        (programs / name).chmod(0o755)


class Job:
    """One run of the job in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.order = folder, order()
        for path in ("source/samples", "source/expected"):
            (folder / path).mkdir(parents=True)
        (folder / "source/model.onnx").write_bytes(ONNX)
        rows, columns = self.order.check_line[2].partition("input_ids:")[2].split(",")[0].split("x")
        sample = array.array("i", [1] * (int(rows) * int(columns)))
        for name in ("input_ids", "attention_mask"):
            (folder / f"source/samples/{name}.bin").write_bytes(sample.tobytes())
        self.sum = 2.0 * len(sample)
        (folder / "source/expected/logits.bin").write_bytes(array.array("f", [self.sum, self.sum]).tobytes())
        (folder / "order.json").write_text(self.order.model_dump_json())

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        folders = [self.folder / name for name in ("source", "work", "target")]
        return subprocess.run(
            [sys.executable, "-m", "model_repo.engine_job.compile", self.folder / "order.json", *folders],
            cwd=ROOT,
            env={**os.environ, "PATH": f"{STAND_INS}:{os.environ['PATH']}", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def record(self) -> dict[str, Any]:
        return json.loads((self.folder / "target/record.json").read_text())
