"""Publishes a folder to a store, twice, and prints what it took: `python -m bench.publish_process FOLDER STORE`."""

import json
import resource
import sys
import time
from pathlib import Path

from model_repo.manifest import MANIFEST_NAME, Manifest
from model_repo.publish import publish
from model_repo.store import open_store


def main(folder: Path, url: str) -> None:
    """Publish."""
    manifest = Manifest.from_bytes((folder / MANIFEST_NAME).read_bytes())
    store, seconds = open_store(url), list[float]()
    for _ in ("first", "again"):
        started = time.perf_counter()
        publish(folder, manifest, store, lambda _: None)
        seconds.append(time.perf_counter() - started)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # on Linux, in KiB
    print(json.dumps({"first": seconds[0], "again": seconds[1], "peak_rss_mb": peak_kib * 1024 / 1e6}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
