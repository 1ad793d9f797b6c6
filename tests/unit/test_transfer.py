"""Progress of a transfer where nobody watches a terminal."""

import pytest

from cli import transfer as module
from cli.transfer import transfer


def test_a_log_gets_a_line_with_how_far_it_is_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LINE_SECONDS", 0)
    with transfer("publish x", 4_000_000) as advance:
        advance(1_000_000)
        advance(3_000_000)
    first, second, last = capsys.readouterr().err.splitlines()
    assert "publish x: 1.0 MB of 4.0 MB, " in first
    assert first.endswith("s left")
    assert "publish x: 4.0 MB of 4.0 MB, " in second
    assert last.startswith("✓ publish x (")
