"""A real Triton in a pod: what it serves, what it refuses, and how it ends."""

import http.client
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from processes import gone
from tiny_model import CONFIG, write_repository
from tritonclient.utils import InferenceServerException

from localcloud.pod import Pod, PodError, isolation_refused
from localcloud.triton import Triton, TritonError, TritonInstall, install, sagemaker_arguments

triton_http: Any = importlib.import_module("tritonclient.http")  # untyped

needs_namespaces = pytest.mark.skipif(isolation_refused() is not None, reason=f"no namespaces: {isolation_refused()}")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> TritonInstall:
    return install(tmp_path_factory.mktemp("triton"))


@contextmanager
def served(installed: TritonInstall, folder: Path, config: str = CONFIG) -> Generator[Triton]:
    """Serve the tiny model as a Deployment would."""
    write_repository(folder / "repository", config)
    arguments = [f"--model-repository={folder / 'repository'}", "--allow-grpc=false", "--allow-metrics=false"]
    ready = (8000, "/v2/health/ready")
    triton = Triton(installed, arguments, {}, ports=[8000], ready=ready, seconds=60, log=folder / "log")
    try:
        yield triton
    finally:
        triton.stop()


def tensor(rows: int, width: int = 4, start: float = 0) -> Any:
    values = np.arange(start, start + rows * width, dtype=np.float32).reshape(rows, width)
    tensor = triton_http.InferInput("x", values.shape, "FP32")
    tensor.set_data_from_numpy(values)
    return tensor


def client(triton: Triton) -> Any:
    host, port = triton.pod.addresses[8000]
    return triton_http.InferenceServerClient(f"{host}:{port}", concurrency=8)


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@needs_namespaces
def test_sagemaker_mode_answers_inside_its_pod_and_opens_no_port_outside(
    installed: TritonInstall, tmp_path: Path
) -> None:
    write_repository(tmp_path / "repository")
    environment = {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "tiny"}
    arguments = sagemaker_arguments(environment, tmp_path / "repository")
    ready = (8080, "/ping")
    triton = Triton(installed, arguments, environment, ports=[8080], ready=ready, seconds=60, log=tmp_path / "log")
    try:
        data = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
        body = json.dumps({"inputs": [data]}).encode()
        status, _, answer = triton.request(8080, "POST", "/invocations", body, {"Content-Type": "application/json"})
        assert status == http.client.OK, answer
        assert json.loads(answer)["outputs"][0]["data"] == [2, 4, 6, 8]
        listening = [sock for sock in psutil.net_connections("tcp") if sock.status == psutil.CONN_LISTEN]
        assert (8080,) not in {tuple(sock.laddr)[1:] for sock in listening}
    finally:
        triton.stop()
    assert gone(triton.pod.pid)


def test_requests_that_wait_together_run_together(installed: TritonInstall, tmp_path: Path) -> None:
    with served(installed, tmp_path) as triton, client(triton) as http_client:
        pending = [http_client.async_infer("tiny", [tensor(1, start=10 * index)]) for index in range(8)]
        answers = [one.get_result().as_numpy("y") for one in pending]
        expected = [2 * np.arange(10 * index, 10 * index + 4, dtype=np.float32)[None] for index in range(8)]
        np.testing.assert_array_equal(answers, expected)
        statistics = http_client.get_inference_statistics("tiny")["model_stats"][0]
        assert statistics["inference_count"] == 8
        assert statistics["execution_count"] < 8


def test_an_error_of_one_request_spares_the_others_of_its_batch(installed: TritonInstall, tmp_path: Path) -> None:
    with served(installed, tmp_path) as triton, client(triton) as http_client:
        good, bad = (http_client.async_infer("tiny", [tensor(2, width)]) for width in (4, 5))
        np.testing.assert_array_equal(good.get_result().as_numpy("y"), [[0, 2, 4, 6], [8, 10, 12, 14]])
        with pytest.raises(InferenceServerException, match=r"(?s)onnxruntime: .*Got: 5 Expected: 4"):
            bad.get_result()


def test_a_model_without_batching_is_served(installed: TritonInstall, tmp_path: Path) -> None:
    config = CONFIG.replace("max_batch_size: 8", "max_batch_size: 0").replace("dims: -1", "dims: [-1, 4]")
    config = config.replace('backend: "onnxruntime"', 'platform: "onnxruntime_onnx"')
    with (
        served(installed, tmp_path, config[: config.index("dynamic_batching")]) as triton,
        client(triton) as http_client,
    ):
        answer = http_client.infer("tiny", [tensor(3)]).as_numpy("y")
        np.testing.assert_array_equal(answer, 2 * np.arange(12).reshape(3, 4))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            'output { name: "y" data_type: TYPE_FP32',
            'output { name: "y" data_type: TYPE_INT64',
            "output y TYPE_INT64 is not",
        ),
        ('output { name: "y"', 'output { name: "z"', "which has: y TYPE_FP32"),
        ("max_batch_size", "max_batch_sise", "failed to read text proto"),
        ("KIND_CPU", "KIND_GPU", "no GPUs are available"),
    ],
)
def test_a_wrong_configuration_fails_with_triton_s_reason(
    installed: TritonInstall, tmp_path: Path, old: str, new: str, reason: str
) -> None:
    with pytest.raises(TritonError, match=reason), served(installed, tmp_path, CONFIG.replace(old, new)):
        pass


def test_a_command_that_is_missing_is_an_error_with_its_log(tmp_path: Path) -> None:
    pod = Pod(["no-such-command"], {"PATH": os.defpath}, ports=[], log=tmp_path / "log")
    pod.wait()
    pod.stop()
    assert "no-such-command" in (tmp_path / "log").read_text()


@needs_namespaces
def test_a_pod_that_cannot_start_is_an_error_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(PodError, match=r"true did not start(?s:.*)Address already in use"):
        Pod(["true"], {}, ports=[], log=tmp_path / "log", outbound=[1, 1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_pod_ends_with_the_process_that_started_it(tmp_path: Path, number: int) -> None:
    program = (
        "import os, sys, pathlib, localcloud.pod as pod\n"
        f"log = pathlib.Path({str(tmp_path / 'log')!r})\n"
        "one = pod.Pod(['sleep', '600'], {'PATH': os.defpath}, ports=[], log=log)\n"
        "print(one.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    host = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with host:
        assert host.stdout
        pid = int(host.stdout.readline())
        assert not gone(pid)
        host.send_signal(number)
    assert eventually(lambda: gone(pid))
