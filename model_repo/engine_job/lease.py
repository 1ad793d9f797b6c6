"""Who builds an engine: a lease in the model store, so that two that want the same engine build it once."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol


def pointer_path(key: str) -> str:
    """Where the record of a finished engine is, with the engine's `location`; an engine without one is not there."""
    return f"engines/{key}.json"


def lease_path(key: str) -> str:
    """Where the lease of a build key is, while it is being built."""
    return f"engines/{key}.lease"


class Store(Protocol):
    """A bucket whose objects are written under a condition."""

    def read(self, path: str) -> tuple[bytes, str] | None:
        """An object's content and the tag of its version; None where there is none."""
        ...

    def write(self, path: str, content: bytes, tag: str | None) -> bool:
        """Write an object over the version ``tag``, None for over nothing; False where another came first."""
        ...


@dataclass(frozen=True)
class Lease:
    """The right to build one engine."""

    job: str
    """What builds it: the name of a processing job, or of a Kubernetes Job."""
    expires_at: float
    """Seconds since 1970. Past it the job is over, and whoever wants the engine may take the lease."""


def take_lease(store: Store, key: str, mine: Lease) -> Lease:
    """Take the lease of a build key, unless another holds it; return the one that holds."""
    while True:
        found = store.read(lease_path(key))
        if found:
            held = Lease(**json.loads(found[0]))
            if held.expires_at > time.time():
                return held
        if store.write(lease_path(key), json.dumps(asdict(mine)).encode(), found[1] if found else None):
            return mine


def wait_for_turn(store: Store, key: str, mine: Lease, report: Callable[[str], None], poll_s: float) -> bytes | None:
    """Wait until the engine is there or is ours to build.

    Args:
        store: Where engines are.
        key: The build key.
        mine: The lease to take; one for the same job is ours already, from before a retry.
        report: Takes a line on what is waited for.
        poll_s: Seconds between two looks.

    Returns:
        The engine's record; None where ``mine`` now holds and the engine is to be built.
    """
    waiting_for = None
    while True:
        pointer = store.read(pointer_path(key))
        if pointer:
            return pointer[0]
        holder = take_lease(store, key, mine)
        if holder.job == mine.job:
            return None
        if holder != waiting_for:
            report(f"engine {key[:12]}: {holder.job} builds it; waiting")
            waiting_for = holder
        time.sleep(poll_s)
