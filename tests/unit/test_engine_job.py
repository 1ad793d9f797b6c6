"""The job beside the T4, run as a process with stand-ins for `trtexec` and `nvidia-smi`: no TensorRT is here."""

import array
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model_repo.compatibility import triton_releases
from model_repo.engine import EngineOrder, engine_order
from model_repo.engine_job.layout import engine_path, repository_digest, repository_files
from model_repo.exported import ExportedModel
from model_repo.manifest import Manifest
from model_repo.recipe import named_recipe

STAND_INS = Path(__file__).parent / "stand_ins"
ROOT = Path(__file__).parents[2]
ONNX = b"the model"
RELEASE = triton_releases()["25.09"]


def order(variant: str = "trt-db") -> EngineOrder:
    exported = ExportedModel(
        weights="hub@1", parity_error=0, size_bytes=len(ONNX), sha256=hashlib.sha256(ONNX).hexdigest()
    )
    return engine_order(named_recipe("bert-small", variant, "fp16", "t4"), exported, RELEASE)


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


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_the_job_leaves_an_engine_and_its_record(job: Job) -> None:
    done = job.run()
    assert done.returncode == 0, done.stderr
    engine = (job.folder / "target/model.plan").read_bytes()
    assert engine == b"engine of " + ONNX
    record = job.record()
    assert record["file"] == {"size_bytes": len(engine), "sha256": hashlib.sha256(engine).hexdigest()}
    assert record["engine"]["driver"] == "580.95.05"
    assert record["engine"]["max_abs_error"] == pytest.approx(0.001, abs=1e-4)
    assert "at most 0.1" in done.stdout
    assert "&&&& RUNNING" in done.stdout, "the log of trtexec is the job's log"


def test_the_manifest_that_the_job_s_parts_write_is_the_one_that_everything_else_reads(job: Job) -> None:
    job.run()
    files = repository_files(json.loads(job.order.model_dump_json()), job.record())
    manifest = Manifest.from_bytes(files["manifest.json"])
    assert manifest.to_bytes() == files["manifest.json"]
    assert manifest.digest == repository_digest(files)
    assert manifest.engine is not None
    assert manifest.engine.command == job.order.build_line
    assert (manifest.variant, manifest.precision, manifest.weights) == ("trt-db", "fp16", "hub@1")
    (job.folder / "repository/bert-small/1").mkdir(parents=True)
    shutil.copy(job.folder / "target/model.plan", job.folder / "repository" / engine_path(job.order.model_dump()))
    for path, content in files.items():
        (job.folder / "repository" / path).write_bytes(content)
    assert manifest.check_folder(job.folder / "repository") == []


def test_variants_that_share_an_engine_are_other_repositories_of_the_same_engine(job: Job) -> None:
    job.run()
    base, batched = order("trt-base"), order("trt-db")
    assert base.key == batched.key
    digests = {
        repository_digest(repository_files(each.model_dump(mode="json"), job.record())) for each in (base, batched)
    }
    assert len(digests) == 2


def test_an_engine_that_has_a_record_is_not_built_again(job: Job) -> None:
    job.run()
    before = (job.folder / "target/model.plan").stat()
    done = job.run(TRTEXEC_FAULT="fails")
    assert done.returncode == 0
    assert "there already" in done.stdout
    assert (job.folder / "target/model.plan").stat() == before


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        (
            {"TRTEXEC_FAULT": "fails"},
            "trtexec failed with exit status 1: Error[4]: unsupported operator Foo (driver",
        ),
        ({"TRTEXEC_FAULT": "far"}, "answers are 9 from the ONNX file's, over 0.1: build it in a higher precision"),
        ({"TRTEXEC_FAULT": "nan"}, "answers are nan from the ONNX file's"),
        ({"TRTEXEC_FAULT": "old"}, "the image has TensorRT v100400, the key is for 10.13.3.9"),
        ({"GPU": "8.6, 580.95.05"}, "the engine is for a GPU of 7.5; nvidia-smi says: 8.6, 580.95.05"),
        ({"PATH": os.path.dirname(sys.executable)}, "nvidia-smi is missing: this machine has no NVIDIA driver"),  # noqa: PTH120
    ],
)
def test_what_goes_wrong_is_one_line_for_whoever_started_the_job_and_leaves_no_record(
    job: Job, environment: dict[str, str], reason: str
) -> None:
    done = job.run(**environment, ENGINE_JOB_MESSAGE=str(job.folder / "message"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert reason in done.stderr
    assert reason in (job.folder / "message").read_text()
    assert not (job.folder / "target/record.json").exists()


def test_another_onnx_file_than_the_key_s_is_refused(job: Job) -> None:
    (job.folder / "source/model.onnx").write_bytes(ONNX[::-1])
    assert f"is not the file of SHA-256 {job.order.onnx_sha256}" in job.run().stderr


def test_an_answer_of_another_shape_is_refused(job: Job) -> None:
    (job.folder / "source/expected/logits.bin").write_bytes(array.array("f", [job.sum] * 3).tobytes())
    assert "output logits: 2 values, expected 3" in job.run().stderr
