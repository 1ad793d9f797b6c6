"""The job beside the T4, run as a process with stand-ins for `trtexec` and `nvidia-smi`: no TensorRT is here."""

import array
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_engine import ONNX, ROOT, Job, order

from model_repo.engine_job.layout import repository_digest, repository_files
from model_repo.manifest import Manifest


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
    shutil.copy(job.folder / "target/model.plan", job.folder / "repository" / job.order.engine_path)
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
            "trtexec failed with exit status 1: Error[4]: unsupported operator Foo",
        ),
        (
            {"TRTEXEC_FAULT": "fails", "GPU": "7.5, 470.256.02"},
            "operator Foo; the host's driver is 470.256.02, the image's CUDA needs 580: build on a host with a newer",
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


def test_the_job_needs_nothing_but_python_s_standard_library() -> None:
    for module in ("compile", "on_gke"):
        command = [sys.executable, "-S", "-c", f"import model_repo.engine_job.{module}"]
        subprocess.run(command, cwd=ROOT, check=True)
