"""The model repository around an engine: which files, and the manifest that names them."""

import hashlib
import json
from typing import Any

from model_repo.engine_job.compile import ENGINE_NAME

MANIFEST_NAME = "manifest.json"


def repository_files(order: dict[str, Any], record: dict[str, Any]) -> dict[str, bytes]:
    """All files of a repository but the engine, by path, the manifest last.

    Args:
        order: An ``EngineOrder`` as JSON.
        record: Of the engine, from any order with the same key: variants share engines.
    """
    config = order["config"].encode()
    config_path = f"{order['model']}/config.pbtxt"
    files = [
        {"path": engine_path(order), **record["file"]},
        {"path": config_path, "size_bytes": len(config), "sha256": hashlib.sha256(config).hexdigest()},
    ]
    # The canonical form, as ``model_repo.manifest.Manifest`` writes it.
    manifest = json.dumps({**order["manifest"], "engine": record["engine"], "files": files}, sort_keys=True, indent=2)
    return {config_path: config, MANIFEST_NAME: manifest.encode() + b"\n"}


def engine_path(order: dict[str, Any]) -> str:
    """Where the engine is in the repository."""
    return f"{order['model']}/1/{ENGINE_NAME}"


def repository_digest(files: dict[str, bytes]) -> str:
    """The digest of the repository: SHA-256 of its manifest."""
    return hashlib.sha256(files[MANIFEST_NAME]).hexdigest()
