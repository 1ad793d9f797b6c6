"""The model repository around an engine: which files, and the manifest that names them."""

import hashlib
import json
from typing import Any

MANIFEST_NAME = "manifest.json"


def repository_files(order: dict[str, Any], record: dict[str, Any]) -> dict[str, bytes]:
    """All files of a repository but the engine, by path, the manifest last.

    Args:
        order: An ``EngineOrder`` as JSON.
        record: Of the engine, from any order with the same key: variants share engines.
    """
    contents = {path: text.encode() for path, text in order["files"].items()}
    listed = {
        path: {"path": path, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in contents.items()
    }
    listed[order["engine_path"]] = {"path": order["engine_path"], **record["file"]}
    files = [listed[path] for path in sorted(listed)]
    # The canonical form, as ``model_repo.manifest.Manifest`` writes it.
    manifest = json.dumps({**order["manifest"], "engine": record["engine"], "files": files}, sort_keys=True, indent=2)
    return {**contents, MANIFEST_NAME: manifest.encode() + b"\n"}


def repository_digest(files: dict[str, bytes]) -> str:
    """The digest of the repository: SHA-256 of its manifest."""
    return hashlib.sha256(files[MANIFEST_NAME]).hexdigest()
