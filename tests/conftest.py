"""What holds for every test."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def tracebacks() -> Iterator[None]:
    """Undo what a dynamic provider does for its own process: without tracebacks Pulumi's mocks wait for ever."""
    yield
    if hasattr(sys, "tracebacklimit"):
        del sys.tracebacklimit
