"""A model repository whose only model doubles its input: made in microseconds, with no exporter."""

from pathlib import Path

from model_repo.manifest import MANIFEST_NAME, Manifest, repository_prefix

CONFIG = """
name: "tiny"
backend: "onnxruntime"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: -1 }
output { name: "y" data_type: TYPE_FP32 dims: -1 }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { max_queue_delay_microseconds: 200000 }
"""
"""The ONNX file has 4 where this has -1, so that a wrong shape gets as far as onnxruntime."""


def write_repository(folder: Path, config: str = CONFIG) -> Manifest:
    """Write the repository with its manifest."""
    (folder / "tiny/1").mkdir(parents=True)
    (folder / "tiny/config.pbtxt").write_text(config)
    (folder / "tiny/1/model.onnx").write_bytes(_onnx())
    manifest = Manifest.of_folder(folder, name="tiny", variant="trt-db", precision="fp32", device="cpu", weights="none")
    (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return manifest


def prefix_of(manifest: Manifest) -> str:
    """Where the repository is to be uploaded."""
    return repository_prefix("tiny", manifest.digest)


def _onnx() -> bytes:
    """An ONNX model of one Add node: y[n, 4] = x + x, in protobuf's wire format (onnx.proto3's field numbers)."""

    def text(number: int, value: str) -> bytes:
        return message(number, value.encode())

    def message(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    def integer(number: int, value: int) -> bytes:
        return bytes([number << 3, value])

    shape = message(1, text(2, "n")) + message(1, integer(1, 4))
    float_tensor = message(2, message(1, integer(1, 1) + message(2, shape)))
    node = text(1, "x") + text(1, "x") + text(2, "y") + text(4, "Add")
    graph = message(1, node) + text(2, "double")
    graph += message(11, text(1, "x") + float_tensor) + message(12, text(1, "y") + float_tensor)
    return integer(1, 8) + message(7, graph) + message(8, integer(2, 17))
