"""A model repository of seeded bytes, large enough to be sent in parts."""

import random
from pathlib import Path

from model_repo.manifest import MANIFEST_NAME, Manifest
from model_repo.store import PART_SIZE_BYTES

SIZES = {
    "big/1/model.onnx": 3 * PART_SIZE_BYTES + 12345,
    "big/1/weights.bin": PART_SIZE_BYTES + 1,
    "big/config.pbtxt": 300,
    "small/1/empty": 0,
    "small/1/model.py": 70_000,
}


def write_files(folder: Path) -> Path:
    """Write the files, without a manifest."""
    seeded = random.Random(4)  # noqa: S311 - repeatable
    for path, size_bytes in SIZES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(seeded.randbytes(size_bytes))
    return folder


def write_manifest(folder: Path, weights: str = "none") -> Manifest:
    """Write the manifest; another ``weights`` makes another digest of the same files."""
    manifest = Manifest.of_folder(folder, name="big", variant="v", precision="fp32", device="cpu", weights=weights)
    (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return manifest


def flip_a_byte(path: Path, at: int) -> None:
    """Change one byte of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
