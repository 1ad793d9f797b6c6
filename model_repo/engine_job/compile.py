"""Builds one engine and runs it once: ``python3 -m model_repo.engine_job.compile ORDER SOURCE WORK TARGET``.

ORDER is an ``EngineOrder`` as JSON. SOURCE holds `model.onnx`, `samples/<input>.bin` and `expected/<output>.bin`, raw
and little-endian. WORK is for what `trtexec` leaves; its timing cache makes a retry faster. TARGET gets the engine,
`model.plan`, and last its record, `record.json`. One that has a record is left alone.
"""

import array
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ENGINE_NAME = "model.plan"
RECORD_NAME = "record.json"
"""The file beside the engine that says what it is: its `engine` and its `file`, as a manifest has them."""

MESSAGE_VARIABLE = "ENGINE_JOB_MESSAGE"
"""Environment variable: the file that gets the reason of a failure, for whoever started the job to read."""

# Where NVIDIA's images have trtexec, which is on PATH in few of them.
_TRTEXEC_FOLDER = "/usr/src/tensorrt/bin"


class JobError(RuntimeError):
    """An engine that could not be built, or that answers wrongly."""


def compile_engine(order: dict[str, Any], source: Path, work: Path, target: Path) -> None:
    """Build the engine, check its answers and record them.

    Raises:
        JobError: The GPU, the TensorRT or the source is not what the order names, `trtexec` failed, or an answer is
            further from the ONNX file's than the order's tolerance.
    """
    if (target / RECORD_NAME).exists():
        print(f"engine {order['key'][:12]} is there already", flush=True)
        return
    driver = _check_gpu(order["compute_capability"])
    if _sha256(source / "model.onnx") != order["onnx_sha256"]:
        raise JobError(f"{source}/model.onnx is not the file of SHA-256 {order['onnx_sha256']}: upload it again")
    work.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        link = work / path.name
        if not link.is_symlink():
            link.symlink_to(path)
    try:
        _trtexec(order["build_line"], work, order["tensorrt"])
        _trtexec(order["check_line"], work, order["tensorrt"])
    except JobError as error:
        if int(driver.partition(".")[0]) >= order["oldest_driver"]:
            raise
        raise JobError(
            f"{error}; the host's driver is {driver}, the image's CUDA needs {order['oldest_driver']}: "
            "build on a host with a newer one, or for an older Triton release"
        ) from error
    error = max_abs_error(work / "outputs.json", work / "expected")
    if not error <= order["tolerance"]:
        raise JobError(
            f"the engine's answers are {error:.3g} from the ONNX file's, over {order['tolerance']:g}: "
            "build it in a higher precision, or look for a layer that overflows in half precision"
        )
    print(f"the engine's answers are {error:.3g} from the ONNX file's (at most {order['tolerance']:g})", flush=True)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(work / ENGINE_NAME, target / ENGINE_NAME)
    (target / RECORD_NAME).write_text(json.dumps(_record(order, target / ENGINE_NAME, driver, error)))


def _record(order: dict[str, Any], engine: Path, driver: str, error: float) -> dict[str, Any]:
    copied = ("key", "onnx_sha256", "triton_release", "tensorrt", "compute_capability")
    measured = {"command": order["build_line"], "driver": driver, "max_abs_error": error}
    return {
        "engine": {**{name: order[name] for name in copied}, **measured},
        "file": {"size_bytes": engine.stat().st_size, "sha256": _sha256(engine)},
    }


def _check_gpu(compute_capability: str) -> str:
    """The driver's version, where the GPU is the right one."""
    command = ["nvidia-smi", "--query-gpu=compute_cap,driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except FileNotFoundError:
        raise JobError("nvidia-smi is missing: this machine has no NVIDIA driver") from None
    found, _, driver = asked.stdout.partition(",")
    if asked.returncode or found.strip() != compute_capability:
        raise JobError(f"the engine is for a GPU of {compute_capability}; nvidia-smi says: {asked.stdout.strip()}")
    return driver.split()[0]


def _trtexec(line: list[str], work: Path, tensorrt: str) -> None:
    """Run a `trtexec` line in ``work``, passing on what it prints."""
    program = shutil.which(line[0], path=f"{os.environ.get('PATH', os.defpath)}:{_TRTEXEC_FOLDER}")
    if program is None:
        raise JobError(f"{line[0]} is neither on PATH nor in {_TRTEXEC_FOLDER}: run this in Triton's own image")
    errors: list[str] = []
    with subprocess.Popen(
        [program, *line[1:]], cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        assert running.stdout  # noqa: S101 - a pipe, by the line above
        for text in running.stdout:
            print(text, end="", flush=True)
            version = re.search(r"\[TensorRT v(\d+)\]", text)
            if version and version[1] != _as_trtexec_says(tensorrt):
                running.kill()
                raise JobError(f"the image has TensorRT v{version[1]}, the key is for {tensorrt}: correct the table")
            if "[E]" in text:
                errors.append(text.partition("[E]")[2].strip())
    if running.returncode:
        reason = errors[0] if errors else "it said no reason"
        raise JobError(f"trtexec failed with exit status {running.returncode}: {reason}")


def _as_trtexec_says(version: str) -> str:
    """`10.13.3.9` → `101303`, `8.6.1.6` → `8601`: from TensorRT 10 on, two digits for each part."""
    major, minor, patch, *_ = (int(part) for part in version.split("."))
    two_digits_each = 10
    return f"{major}{minor:02}{patch:02}" if major >= two_digits_each else f"{major}{minor}{patch:02}"


def max_abs_error(outputs: Path, expected: Path) -> float:
    """The largest absolute difference of what `trtexec --exportOutput` wrote from `<output>.bin`, NaN if one is NaN.

    The format: https://github.com/NVIDIA/TensorRT/blob/release/10.13/samples/common/sampleReporting.cpp
    (exportJSONOutput): a list of {"name", "dimensions", "values"}, not-a-number as a bare `nan`.

    Args:
        outputs: The JSON file.
        expected: A folder with one file an output: float32, little-endian.

    Raises:
        JobError: An output is missing or has another number of values.
    """
    text = re.sub(r"(?<![\w\"])(-?)(nan|inf)(?!\w)", _as_json, outputs.read_text())
    answers = {output["name"]: output["values"] for output in json.loads(text)}
    worst = 0.0
    for path in sorted(expected.glob("*.bin")):
        values = array.array("f", path.read_bytes())
        answer = answers.get(path.stem, [])
        if len(answer) != len(values):
            raise JobError(f"output {path.stem}: {len(answer)} values, expected {len(values)}")
        for one, other in zip(answer, values):  # noqa: B905 - equal, by the line above
            difference = abs(one - other)
            if not difference <= worst:
                worst = difference
            if worst != worst:  # noqa: PLR0124 - NaN, which nothing else may hide
                return worst
    return worst


def _as_json(found: re.Match[str]) -> str:
    return "NaN" if found[2] == "nan" else f"{found[1]}Infinity"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()  # hashlib.file_digest came with Python 3.11
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fail(error: Exception) -> None:
    """Say why, where whoever started the job reads it, and exit with status 1."""
    if MESSAGE_VARIABLE in os.environ:
        Path(os.environ[MESSAGE_VARIABLE]).write_text(str(error))
    sys.exit(f"error: {error}")


def main(order: str, source: str, work: str, target: str) -> None:
    """Run the job."""
    try:
        compile_engine(json.loads(Path(order).read_text()), Path(source), Path(work), Path(target))
    except (JobError, OSError) as error:
        fail(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
