"""What a Kubernetes Job does before and after the build.

``python3 -m model_repo.engine_job.on_gke fetch ORDER BUCKET FOLDER JOB LEASE_S`` takes the lease and brings the
sources to FOLDER/source; an engine that is there already is awaited, and only its record is brought.

``python3 -m model_repo.engine_job.on_gke publish ORDER BUCKET FOLDER`` stores the engine, then its record, then the
repository around it, the manifest last. Each object is written once: what a killed run has left is found again.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from model_repo.engine_job.compile import ENGINE_NAME, RECORD_NAME, JobError, fail
from model_repo.engine_job.gcs import GcsStore
from model_repo.engine_job.layout import MANIFEST_NAME, repository_digest, repository_files
from model_repo.engine_job.lease import Lease, lease_path, pointer_path, wait_for_turn

_POLL_S = 10.0


def fetch(order: dict[str, Any], store: GcsStore, folder: Path, mine: Lease, poll_s: float = _POLL_S) -> None:
    """Bring what is to be built, or the record of what has been."""
    (folder / "target").mkdir(parents=True, exist_ok=True)
    record = wait_for_turn(store, order["key"], mine, lambda line: print(line, flush=True), poll_s)
    if record:
        (folder / "target" / RECORD_NAME).write_bytes(record)
        return
    prefix = f"{order['source_prefix']}/"
    store.download_folder(prefix, folder / "source")
    if not (folder / "source" / "model.onnx").exists():
        raise JobError(f"{prefix}model.onnx is not in the bucket: upload the sources first")


def publish(order: dict[str, Any], store: GcsStore, folder: Path) -> None:
    """Store the engine, unless it was found stored, and the repository around it."""
    record: dict[str, Any] = json.loads((folder / "target" / RECORD_NAME).read_text())
    key, engine = order["key"], folder / "target" / ENGINE_NAME
    if engine.exists():
        record["location"] = f"engines/{key}/{record['file']['sha256']}.plan"
        store.upload(record["location"], engine)
        store.write(pointer_path(key), json.dumps(record).encode(), None)
        store.delete(lease_path(key))
    pointer = store.read(pointer_path(key))
    if pointer is None:
        raise JobError(f"{pointer_path(key)} is gone: it was removed while this ran; run it again")
    record = json.loads(pointer[0])
    files = repository_files(order, record)
    prefix = f"models/{order['manifest']['name']}/{repository_digest(files)}"
    if store.read(f"{prefix}/{MANIFEST_NAME}") is None:  # it is written last: one that is there is whole
        store.copy(record["location"], f"{prefix}/{order['engine_path']}")
        for path, content in files.items():
            store.write(f"{prefix}/{path}", content, None)
    print(f"engine {key[:12]} is in {prefix}", flush=True)


def main(step: str, order: str, bucket: str, folder: str, *lease: str) -> None:
    """Run one step."""
    wanted, store = json.loads(Path(order).read_text()), GcsStore(bucket)
    try:
        if step == "fetch":
            job, lease_s = lease
            fetch(wanted, store, Path(folder), Lease(job, time.time() + float(lease_s)))
        else:
            publish(wanted, store, Path(folder))
    except (JobError, OSError) as error:  # OSError: urllib's, too
        fail(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
