"""What a TensorRT engine is built from: its key, known before the build, and the `trtexec` lines.

Flags: https://docs.nvidia.com/deeplearning/tensorrt/10.13.3/reference/command-line-programs.html
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from model_repo.build import ModelArtifact, NotBuilt, link_file, text_files
from model_repo.cache import cache_path, cache_to_write, folder_in_making
from model_repo.compatibility import TritonRelease
from model_repo.config import served_name
from model_repo.conversion import Conversion, Report
from model_repo.engine_job.compile import ENGINE_NAME
from model_repo.exported import ONNX_NAME, ExportedModel
from model_repo.manifest import MANIFEST_NAME, Manifest, Sha256
from model_repo.recipe import Precision, Recipe
from model_repo.sample import reference_outputs, sample_inputs
from model_repo.spec import ModelSpec

T4_COMPUTE_CAPABILITY: Final = "7.5"

WORKSPACE_MIB: Final = 8192
"""Scratch memory of a layer: half of a T4's 16 GB, the other half is for weights, activations and the CUDA context."""

TOLERANCES: Final[dict[Precision, float]] = {"fp32": 1e-3, "fp16": 0.1, "int8": 0.5}
"""The largest absolute difference of a raw score from the ONNX file's that an engine may have.

A choice, not a bound: half precision has 11 bits, so a score of 20 is good to 0.01 before errors add up over layers.
"""

# In INT8 the graph's own Q/DQ nodes say what is quantised; what they leave out runs in half precision.
_PRECISION_FLAGS: Final[dict[Precision, tuple[str, ...]]] = {
    "fp32": (),
    "fp16": ("--fp16",),
    "int8": ("--int8", "--fp16"),
}

# One row could not show that rows are mixed up.
_SAMPLE_ROWS: Final = 2


class EngineError(ValueError):
    """A recipe that no engine is built for."""


class EngineOrder(BaseModel):
    """One engine to build: everything that the job beside the T4 has to know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Sha256
    """What the engine is named by: equal keys are never built twice."""
    onnx_sha256: Sha256
    source_prefix: str
    """Where in the store the ONNX file and its samples are, without a slash at its end."""
    triton_release: str
    tensorrt: str
    compute_capability: str
    oldest_driver: int
    """The oldest branch of NVIDIA's driver that runs the image's CUDA, such as 580."""
    build_line: tuple[str, ...]
    check_line: tuple[str, ...]
    tolerance: float = Field(gt=0)
    engine_path: str
    """Where the engine is in its repository."""
    files: dict[str, str]
    """All else that is in it, by path."""
    manifest: dict[str, Any]
    """The fields of the repository's manifest that do not come from the build."""


def prepare_engine(recipe: Recipe, report: Report) -> ModelArtifact:
    """Make what a T4 builds the engine from, unless it is there: the ONNX file, samples and its answers to them.

    Raises:
        EngineError: The recipe is not served by an engine.
        model_repo.build.BuildError: A tool is missing, there is no room, or the conversion failed.
    """
    trtexec_build_line(recipe)
    conversion = Conversion.of(recipe)
    exported = conversion.make(report)
    folder = _source_folder(recipe, exported)
    with cache_to_write():
        if not folder.exists():
            with folder_in_making(folder) as making:
                for file in exported.files:
                    link_file(conversion.folder / file.path, making / file.path)
                write_samples(recipe.spec, making / ONNX_NAME, making)
                source = Manifest.of_folder(
                    making,
                    name=recipe.spec.name,
                    # Whatever variant asks for it first, the same: of one ONNX file there is one source.
                    variant="source",
                    precision="int8" if recipe.precision == "int8" else "fp32",
                    device=recipe.device,
                    weights=exported.weights,
                )
                (making / MANIFEST_NAME).write_bytes(source.to_bytes())
    return prepared_engine(recipe)[1]


def prepared_engine(recipe: Recipe) -> tuple[ExportedModel, ModelArtifact]:
    """The ONNX file that the engine is built from, and all that goes to the T4 with it.

    Raises:
        model_repo.build.NotBuilt: It has not been made on this machine; the text names the command that does it.
    """
    exported = Conversion.of(recipe).find()
    folder = _source_folder(recipe, exported) if exported else None
    if exported is None or folder is None or not (folder / MANIFEST_NAME).is_file():
        raise NotBuilt(
            f"{recipe}: nothing is here to build its engine from: "
            f"run `triton-stack model build {recipe.arguments}`, or name a digest in `triton-stack:model.digest`"
        )
    return exported, ModelArtifact(Manifest.from_bytes((folder / MANIFEST_NAME).read_bytes()), folder)


def _source_folder(recipe: Recipe, exported: ExportedModel) -> Path:
    rows = _sample_rows(recipe.spec)
    return cache_path() / "sources" / f"{recipe.spec.name}-{exported.sha256[:16]}-{rows}"


def engine_order(recipe: Recipe, exported: ExportedModel, release: TritonRelease, source_prefix: str) -> EngineOrder:
    """The order for the engine of a recipe.

    Args:
        recipe: For a T4, of a TensorRT variant.
        exported: The ONNX file that the engine is made from; in INT8 the quantised one.
        release: The Triton that will serve it.
        source_prefix: Where in the store the ONNX file and its samples will be, without a slash at its end.

    Raises:
        EngineError: The recipe is not served by an engine.
    """
    build_line, spec = trtexec_build_line(recipe), recipe.spec
    manifest: dict[str, Any] = {
        "name": spec.name,
        "variant": recipe.variant.name,
        "precision": recipe.precision,
        "device": recipe.device,
        "weights": exported.weights,
    }
    if exported.accuracy:
        manifest["accuracy"] = exported.accuracy.model_dump()
    return EngineOrder(
        key=build_key(recipe, exported.sha256, release),
        onnx_sha256=exported.sha256,
        source_prefix=source_prefix,
        triton_release=release.name,
        tensorrt=release.tensorrt,
        compute_capability=T4_COMPUTE_CAPABILITY,
        oldest_driver=release.driver,
        build_line=build_line,
        check_line=trtexec_check_line(spec),
        tolerance=TOLERANCES[recipe.precision],
        engine_path=f"{served_name(recipe)}/1/{ENGINE_NAME}",
        files={path: content.decode() for path, content in text_files(recipe).items()},
        manifest=manifest,
    )


def build_key(recipe: Recipe, onnx_sha256: str, release: TritonRelease) -> str:
    """SHA-256, 64 hex digits, of all that an engine is built from. Its bytes differ from build to build.

    Variants that differ only in `config.pbtxt` share an engine, and its key.

    Raises:
        EngineError: The recipe is not served by an engine.
    """
    decides = {
        "onnx": onnx_sha256,
        "tensorrt": release.tensorrt,
        "compute_capability": T4_COMPUTE_CAPABILITY,
        "line": trtexec_build_line(recipe),  # precision, optimisation profile and builder flags
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def trtexec_build_line(recipe: Recipe) -> tuple[str, ...]:
    """The `trtexec` line that builds the engine, in a folder that holds the ONNX file.

    Raises:
        EngineError: The recipe is not served by an engine.
    """
    if not recipe.needs_engine:
        raise EngineError(
            f"{recipe}: nothing is compiled for it: the CPU serves the ONNX file, pt-* variants serve TorchScript; "
            "write a trt-* variant and device t4"
        )
    spec, profile = recipe.spec, recipe.spec.profile
    return (
        "trtexec",
        f"--onnx={ONNX_NAME}",
        f"--saveEngine={ENGINE_NAME}",
        *_PRECISION_FLAGS[recipe.precision],
        f"--minShapes={_shapes(spec, profile.min)}",
        f"--optShapes={_shapes(spec, profile.opt)}",
        f"--maxShapes={_shapes(spec, profile.max)}",
        f"--memPoolSize=workspace:{WORKSPACE_MIB}",
        "--timingCacheFile=timing.cache",
        "--skipInference",
    )


def trtexec_check_line(spec: ModelSpec) -> tuple[str, ...]:
    """The `trtexec` line that runs the engine once on the samples of `write_samples`."""
    inputs = ",".join(f"{tensor.name}:samples/{tensor.name}.bin" for tensor in spec.inputs)
    return (
        "trtexec",
        f"--loadEngine={ENGINE_NAME}",
        f"--shapes={_shapes(spec, _sample_rows(spec))}",
        f"--loadInputs={inputs}",
        "--exportOutput=outputs.json",
        "--exportTimes=times.json",
        "--iterations=1",
        "--warmUp=0",
        "--duration=0",
    )


def write_samples(spec: ModelSpec, onnx_path: Path, folder: Path) -> None:
    """Write what an engine is checked by, beside the ONNX file in the sources: inputs and the ONNX file's answers.

    `samples/<input>.bin` is raw and little-endian in the input's own type, `expected/<output>.bin` is float32.
    """
    inputs = sample_inputs(spec, _sample_rows(spec))
    for name, arrays in (("samples", inputs), ("expected", reference_outputs(onnx_path, inputs))):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for tensor, values in arrays.items():
            typed = values.astype(np.float32) if name == "expected" else values
            (folder / name / f"{tensor}.bin").write_bytes(typed.tobytes())


def _sample_rows(spec: ModelSpec) -> int:
    return min(max(_SAMPLE_ROWS, spec.profile.min), spec.profile.max)


def _shapes(spec: ModelSpec, rows: int) -> str:
    """Such as `input_ids:16x512,attention_mask:16x512`."""
    return ",".join(f"{tensor.name}:{'x'.join(map(str, (rows, *tensor.dims)))}" for tensor in spec.inputs)
