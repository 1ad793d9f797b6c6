"""Load on real Tritons: what dynamic batching and a second instance do is counted, and a server that fails is told."""

import json

import pytest
from typer.testing import CliRunner

from cli.main import app
from localcloud.pod import free_port
from model_repo.loadtest import LoadError, measure
from model_repo.spec import load_spec


def test_the_four_configurations_are_compared_under_the_same_load() -> None:
    shown = CliRunner().invoke(app, ["model", "bench", "bert-small", "--seconds", "2", "--concurrency", "8", "--json"])
    assert shown.exit_code == 0, shown.output
    rows = {row["configuration"]: row for row in json.loads(shown.stdout)["configurations"]}
    assert list(rows) == ["trt-base", "trt-db", "trt-ig", "trt-ig-db"]
    base, batching = rows["trt-base"], rows["trt-db"]
    assert base["speed_up"] == 1
    assert base["batch_size"] == 1
    assert batching["batch_size"] > 1.5  # eight callers wait: only a batch can take several of them
    for row in rows.values():
        assert row["latency_p50_ms"] <= row["latency_p95_ms"]
        assert 0 < row["busy_instances"] <= row["instances"] * 1.2  # an execution may begin before the window
        # Callers that send one at a time: how many there are bounds what is answered (Little's law).
        under_way = row["throughput_per_minute"] / 60 * row["latency_p50_ms"] / 1000
        assert under_way == pytest.approx(8, rel=0.5)


def test_a_server_that_does_not_answer_is_told_in_one_line() -> None:
    with pytest.raises(LoadError, match=r"bert-small: the server answers: .*failed to connect"):
        measure(f"127.0.0.1:{free_port()}", load_spec("bert-small"), concurrency=2, seconds=1)
