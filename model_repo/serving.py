"""How a model is served beyond its variant: batching, instances, warm-up, cache, queue, ensemble.

A spec has the defaults; a build may override them.
Fields and limits: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

_VALUE = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _rising(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if list(sizes) != sorted(set(sizes)):
        raise ValueError("must rise, each size once, as in [8, 16]")
    return sizes


BatchSizes = Annotated[tuple[PositiveInt, ...], AfterValidator(_rising)]
"""Batch sizes, the smallest first."""


class QueuePolicy(BaseModel):
    """What happens to requests that wait for a batch. Only a variant with dynamic batching has such a queue."""

    model_config = _VALUE

    max_queue_size: PositiveInt
    """Requests that may wait; the next one is refused at once."""
    default_timeout_microseconds: NonNegativeInt = 0
    """How long a request may wait; 0 is for ever."""
    timeout_action: Literal["reject", "delay"] = "reject"
    """What becomes of a request that has waited too long: refused, or served after all others."""
    allow_timeout_override: bool = False
    """Whether a request may ask for a shorter timeout."""


class Serving(BaseModel):
    """The options of serving one model."""

    model_config = _VALUE

    preferred_batch_sizes: BatchSizes = ()
    """Batches that dynamic batching sends at once, such as an engine's ``opt``; none: any size."""
    max_queue_delay_microseconds: int = Field(default=0, ge=0, le=500_000)
    """How long dynamic batching waits for a preferred batch: at most the 500 ms that a whole request has."""
    instances: int = Field(default=2, ge=1, le=64)
    """Copies of the model on each GPU in an ``ig`` variant. 64: far more than a T4's memory holds of any model."""
    warmup: BatchSizes = ()
    """Batches that each instance runs before it counts as ready, so that no user waits for the first ones."""
    response_cache: bool = False
    """Whether equal requests are answered from the server's cache; needs its option ``--cache-config``."""
    queue: QueuePolicy | None = None
    """None: any number of requests wait for ever."""
    ensemble: bool = False
    """Whether clients send text or an image and get classes, instead of tensors."""

    def beyond(self, max_batch_size: int) -> str | None:
        """What is larger than the largest batch of the model, in one line, or None."""
        for field in ("preferred_batch_sizes", "warmup"):
            sizes: tuple[int, ...] = getattr(self, field)
            if sizes and sizes[-1] > max_batch_size:
                return (
                    f"serving.{field}: {sizes[-1]} is more than max_batch_size, {max_batch_size}: "
                    f"Triton would refuse the model; use {max_batch_size} or less"
                )
        return None
