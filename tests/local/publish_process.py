"""Publishes a folder to a store, in a process that a test kills: `python publish_process.py FOLDER STORE`."""

import sys
from pathlib import Path

from model_repo.manifest import MANIFEST_NAME, Manifest
from model_repo.publish import publish
from model_repo.store import open_store

folder = Path(sys.argv[1])
manifest = Manifest.from_bytes((folder / MANIFEST_NAME).read_bytes())
store = open_store(sys.argv[2])
sys.stdout.write("ready\n")
sys.stdout.flush()
sys.stdout.write(f"{publish(folder, manifest, store, lambda _: None).sent_bytes}\n")
