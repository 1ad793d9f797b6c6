"""Publishes a folder to a store, in a process that a test kills: `python publish_process.py FOLDER STORE`.

It prints a line when it begins, one for each file and part that is done, and last the bytes that it sent.
"""

import sys
from pathlib import Path

from model_repo.manifest import MANIFEST_NAME, Manifest
from model_repo.publish import publish
from model_repo.store import open_store


def say(text: object) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


folder = Path(sys.argv[1])
manifest = Manifest.from_bytes((folder / MANIFEST_NAME).read_bytes())
store = open_store(sys.argv[2])
say("ready")
say(publish(folder, manifest, store, say).sent_bytes)
