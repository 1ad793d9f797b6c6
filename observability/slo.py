"""What a client may expect of an endpoint, on either target."""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Slo:
    """A service level objective: how fast, how often so fast, and how often at all.

    The ranges are those of `triton-stack:slo`, where they are checked.
    """

    latency_ms: float
    """Latency of the model that its requests hold, over 0."""
    percentile: float = 95
    """Share of requests that hold it, in percent: over 50, under 100, at most two decimals."""
    availability: float = 0.999
    """Share of requests that are answered: under 1."""

    @property
    def error_budget(self) -> float:
        """Share of requests that may fail: `1 - availability`, in decimal as it was written."""
        return float(1 - Fraction(str(self.availability)))
