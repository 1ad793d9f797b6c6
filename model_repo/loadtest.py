"""Load on a Triton server: callers that each send the next request when the last one is answered."""

import asyncio
import importlib
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from tritonclient.utils import InferenceServerException

from model_repo.sample import sample_inputs
from model_repo.spec import ModelSpec

triton: Any = importlib.import_module("tritonclient.grpc.aio")  # untyped

WARM_UP_SECONDS: Final = 2.0
"""Discarded: the first answers of a session are slower."""

_NS: Final = 1e9


class LoadError(RuntimeError):
    """A server that refuses a request, or answers too few to measure."""


@dataclass(frozen=True)
class Load:
    """What a server did under load, in a window of time."""

    throughput_per_minute: float
    """Requests of one sample each that were answered."""
    latency_p50_ms: float
    """As the callers saw it, waiting included."""
    latency_p95_ms: float
    batch_size: float
    """Requests that an execution joined, on average."""
    busy_instances: float
    """How many of the model's instances computed at a time, on average."""


def measure(address: str, spec: ModelSpec, *, concurrency: int, seconds: float) -> Load:
    """Send requests for ``WARM_UP_SECONDS``, and then for ``seconds`` that count.

    Args:
        address: ``HOST:PORT`` of the server's gRPC service.
        spec: The model that it serves.
        concurrency: Callers, and so requests under way at a time; at least 1.
        seconds: Long enough for at least one answer.

    Raises:
        LoadError: The server answered with an error, or not at all in the time that counts.
    """
    return asyncio.run(_measure(address, spec, concurrency, seconds))


async def _measure(address: str, spec: ModelSpec, concurrency: int, seconds: float) -> Load:
    start = time.perf_counter() + WARM_UP_SECONDS
    end = start + seconds
    async with triton.InferenceServerClient(address) as client:
        before = asyncio.create_task(_statistics_at(start, client, spec.name))
        after = asyncio.create_task(_statistics_at(end, client, spec.name))
        try:
            answers = await asyncio.gather(*(_call(client, spec, seed, end) for seed in range(concurrency)))
        except InferenceServerException as error:
            raise LoadError(f"{spec.name}: the server answers: {error}") from error
        executions, requests, compute_ns = (await after) - (await before)
    latencies_ms = [
        1000 * (answered - sent) for calls in answers for sent, answered in calls if start <= answered <= end
    ]
    if not latencies_ms or not executions:
        raise LoadError(f"{spec.name}: no answer in {seconds:g} s: give it longer by --seconds")
    p50, p95 = np.percentile(latencies_ms, [50, 95])
    return Load(
        throughput_per_minute=60 * len(latencies_ms) / seconds,
        latency_p50_ms=float(p50),
        latency_p95_ms=float(p95),
        batch_size=float(requests / executions),
        busy_instances=float(compute_ns / _NS / seconds),
    )


async def _call(client: Any, spec: ModelSpec, seed: int, end: float) -> list[tuple[float, float]]:  # noqa: ANN401
    """Send one sample again and again until ``end``; return when each was sent and answered."""
    tensors: list[Any] = []
    for tensor, array in zip(spec.inputs, sample_inputs(spec, 1, seed).values(), strict=True):
        tensors.append(triton.InferInput(tensor.name, array.shape, tensor.dtype))
        tensors[-1].set_data_from_numpy(array)
    times: list[tuple[float, float]] = []
    while (sent := time.perf_counter()) < end:
        await client.infer(spec.name, tensors)
        times.append((sent, time.perf_counter()))
    return times


async def _statistics_at(moment: float, client: Any, model: str) -> np.ndarray[Any, Any]:  # noqa: ANN401
    """Triton's own counts at a moment: executions, requests in them, and nanoseconds that they computed."""
    await asyncio.sleep(moment - time.perf_counter())
    statistics = (await client.get_inference_statistics(model)).model_stats[0]
    compute_ns = sum(batch.compute_infer.ns for batch in statistics.batch_stats)
    return np.array([statistics.execution_count, statistics.inference_count, compute_ns])
