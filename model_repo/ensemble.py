"""The models around a model: text or an image in, classes out.

The ensemble has the model's plain name, so that clients and endpoints name the same thing with and without it.
Its steps are ``NAME-input``, ``NAME-model`` and ``NAME-classes``.
Ensembles: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/ensemble_models.md
"""

import json
from pathlib import Path
from typing import Any, Final, cast

from google.protobuf import json_format
from google.protobuf.message import Message

from model_repo.config import CONFIG_NAME, ModelConfig, config_pbtxt, served_name, tensor_fields
from model_repo.recipe import Recipe
from model_repo.spec import MODELS, ImagePipeline, ModelSpec, SpecError, TextPipeline

_CODE: Final = Path(__file__).parent / "pipeline"

_INPUTS: Final[dict[str, dict[str, Any]]] = {
    "text": {"name": "text", "data_type": "TYPE_STRING", "dims": [1]},
    # The bytes of a file, not a string: DALI takes no strings.
    "image": {"name": "image_file", "data_type": "TYPE_UINT8", "dims": [-1]},
}
"""What clients send, by the kind of the pipeline."""

# A folder without an object does not exist in a bucket, and Triton wants a version.
_VERSION_NOTE: Final = b"The steps of this ensemble are models of their own.\n"


def ensemble_files(recipe: Recipe) -> dict[str, bytes]:
    """The files around the model, by their paths in the repository: all but a text model's ``vocab.txt``.

    Raises:
        model_repo.spec.SpecError: the spec's labels are not there, or not one for each class.
    """
    spec = recipe.spec
    pipeline = _pipeline(spec)
    files = {
        **_model(classes_config(recipe), "model.py", _code("classes.py")),
        f"{spec.name}-classes/1/labels.txt": _labels(spec),
        **_model(ensemble_config(recipe), "README", _VERSION_NOTE),
    }
    if isinstance(pipeline, TextPipeline):
        return files | _model(input_config(recipe), "model.py", _code("tokenizer.py"))
    own, code = ("model.py", "image.py") if recipe.device == "cpu" else ("dali.py", "dali.py")
    settings = json.dumps(_image_settings(spec, pipeline), indent=2).encode() + b"\n"
    return files | _model(input_config(recipe), own, _code(code)) | {f"{spec.name}-input/1/image.json": settings}


def vocabulary_path(spec: ModelSpec) -> str:
    """Where in the repository a text model's vocabulary is."""
    return f"{spec.name}-input/1/vocab.txt"


def ensemble_config(recipe: Recipe) -> Message:
    """What clients call: the three steps, and which tensor goes where."""
    spec = recipe.spec
    (scores,) = spec.outputs
    tensors = {tensor.name: tensor.name for tensor in spec.inputs}
    steps = [
        (f"{spec.name}-input", {_asked(spec)["name"]: _asked(spec)["name"]}, tensors),
        (served_name(recipe), tensors, {scores.name: scores.name}),
        (f"{spec.name}-classes", {"scores": scores.name}, {field["name"]: field["name"] for field in _answer(spec)}),
    ]
    return _config(
        spec,
        name=spec.name,
        platform="ensemble",
        input=[_asked(spec)],
        output=_answer(spec),
        ensemble_scheduling={
            "step": [
                {"model_name": name, "model_version": -1, "input_map": inputs, "output_map": outputs}
                for name, inputs, outputs in steps
            ]
        },
    )


def input_config(recipe: Recipe) -> Message:
    """The first step: Python, but for images on a GPU DALI, which decodes them there."""
    spec = recipe.spec
    on_gpu = recipe.device == "t4" and isinstance(_pipeline(spec), ImagePipeline)
    return _config(
        spec,
        name=f"{spec.name}-input",
        backend="dali" if on_gpu else "python",
        input=[_asked(spec) | ({"allow_ragged_batch": True} if on_gpu else {})],
        output=[tensor_fields(tensor) for tensor in spec.inputs],
        instance_group=[{"count": 1, "kind": "KIND_GPU" if on_gpu else "KIND_CPU"}],
    )


def classes_config(recipe: Recipe) -> Message:
    """The last step."""
    spec = recipe.spec
    (scores,) = spec.outputs
    return _config(
        spec,
        name=f"{spec.name}-classes",
        backend="python",
        input=[tensor_fields(scores) | {"name": "scores"}],
        output=_answer(spec),
        instance_group=[{"count": 1, "kind": "KIND_CPU"}],
    )


def _config(spec: ModelSpec, **fields: object) -> Message:
    return json_format.ParseDict({"max_batch_size": spec.max_batch_size, **fields}, ModelConfig())


def _pipeline(spec: ModelSpec) -> TextPipeline | ImagePipeline:
    assert spec.pipeline  # noqa: S101 - ModelSpec lets no ensemble be without
    return spec.pipeline


def _asked(spec: ModelSpec) -> dict[str, Any]:
    return _INPUTS[_pipeline(spec).kind]


def _answer(spec: ModelSpec) -> list[dict[str, Any]]:
    top_k = _pipeline(spec).top_k
    return [
        {"name": "label", "data_type": "TYPE_STRING", "dims": [top_k]},
        {"name": "probability", "data_type": "TYPE_FP32", "dims": [top_k]},
    ]


def _model(config: Message, file: str, content: bytes) -> dict[str, bytes]:
    name: str = cast("Any", config).name
    return {f"{name}/{CONFIG_NAME}": config_pbtxt(config).encode(), f"{name}/1/{file}": content}


def _code(name: str) -> bytes:
    return (_CODE / name).read_bytes()


def _labels(spec: ModelSpec) -> bytes:
    path = MODELS / _pipeline(spec).labels
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SpecError(f"{spec.name}.yaml: pipeline.labels: {path.name} cannot be read: {error.strerror}") from error
    found, classes = len(content.decode().splitlines()), spec.outputs[0].dims[0]
    if found != classes:
        raise SpecError(f"{spec.name}.yaml: pipeline.labels: {path.name} has {found} lines for {classes} classes")
    return content


def _image_settings(spec: ModelSpec, pipeline: ImagePipeline) -> dict[str, Any]:
    _, height, width = spec.inputs[0].dims
    return {
        "batch_size": spec.max_batch_size,
        "height": height,
        "width": width,
        **pipeline.model_dump(include={"resize", "mean", "std"}),
    }
