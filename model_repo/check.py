"""What Triton would refuse of a model repository, found before Triton sees it, in Triton's words.

Its own checks: model_config_utils.cc and ensemble_utils.cc in
https://github.com/triton-inference-server/core/blob/main/src.
tests/local holds the words here against those of a real server.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format

from model_repo.config import CONFIG_NAME, ModelConfig
from model_repo.yamlfile import printable

_FILES: Final = {
    "onnxruntime": "model.onnx",
    "onnxruntime_onnx": "model.onnx",
    "tensorrt": "model.plan",
    "tensorrt_plan": "model.plan",
    "pytorch": "model.pt",
    "pytorch_libtorch": "model.pt",
    "python": "model.py",
    "dali": "dali.py",
}
"""By backend or platform, the file that it serves where ``default_model_filename`` names none."""

_ENSEMBLE: Final = "ensemble"

Config = Any
"""A ``ModelConfig`` message: protoc makes its fields at import, where no type checker sees them."""


def repository_errors(repository: Path, gpus: int) -> list[str]:
    """One line for each thing that Triton would refuse, or would die of; none when it loads.

    Args:
        repository: folder of model folders.
        gpus: of the machine that will serve it.
    """
    configs: dict[str, Config] = {}
    lines: list[str] = []
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        try:
            configs[folder.name] = _read(folder / CONFIG_NAME)
        except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
            lines.append(f"{folder.name}: failed to read text proto from {CONFIG_NAME}: {error}")
    for name, config in configs.items():
        reasons = [*_model(config), *_folder(config, repository / name), *_ensemble(config, configs)]
        if config.platform != _ENSEMBLE:
            reasons += _instances(config, gpus)
        lines += [f"{name}: {reason}" for reason in reasons]
    return [printable(" ".join(line.split())) for line in lines]


def _read(path: Path) -> Config:
    config: Config = text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
    config.name = config.name or path.parent.name
    return config


def _model(config: Config) -> Iterator[str]:
    name = config.name
    if not config.platform and not config.backend:
        yield f"Could not determine backend for model '{name}' with no backend in model configuration"
    if config.max_batch_size < 0:
        yield f"'max_batch_size' must be non-negative value for {name}"
    yield from _batches(config)
    for kind, tensors in (("input", config.input), ("output", config.output)):
        names = [tensor.name for tensor in tensors]
        for tensor in tensors:
            yield from _tensor(kind, tensor, name)
        for twice in sorted({each for each in names if names.count(each) > 1}):
            yield f"model {kind} '{twice}' is there {names.count(twice)} times for {name}"


def _batches(config: Config) -> Iterator[str]:
    name, largest = config.name, config.max_batch_size
    for size in config.dynamic_batching.preferred_batch_size:
        if size <= 0:
            yield f"dynamic batching preferred size must be positive for {name}"
        elif size > largest:
            yield f"dynamic batching preferred size must be <= max batch size for {name}: {size} is more than {largest}"
    for warmup in config.model_warmup:
        if warmup.batch_size > max(largest, 1):  # Triton 2.51 loads it, and dies
            yield f"model_warmup '{warmup.name}': batch size {warmup.batch_size} is more than {largest}"


def _tensor(kind: str, tensor: Any, model: str) -> Iterator[str]:  # noqa: ANN401 - see Config
    if not tensor.name:
        yield f"model {kind} must specify 'name' for {model}"
    elif not tensor.data_type:
        yield f"model {kind} '{tensor.name}' must specify 'data_type' for {model}"
    elif not tensor.dims:
        yield f"model {kind} '{tensor.name}' must specify 'dims' for {model}"
    elif any(size < 1 and size != -1 for size in tensor.dims):
        yield (
            f"model {kind} '{tensor.name}' dimension must be integer >= 1, or -1 to indicate a variable-size "
            f"dimension for {model}"
        )


def _folder(config: Config, folder: Path) -> Iterator[str]:
    if config.name != folder.name:
        yield (
            f"unexpected directory name '{folder.name}' for model '{config.name}', directory name must equal model name"
        )
    versions = [path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()]
    if not versions:
        yield f"at least one version must be available under the version policy of model '{folder.name}'"
    file = config.default_model_filename or _FILES.get(config.backend or config.platform)
    for version in versions:
        if not any(version.iterdir()):
            yield f"version {version.name} is an empty folder, which does not exist in a bucket"
        elif file and not (version / file).exists():
            yield f"version {version.name}: {file}: File doesn't exist"


def _instances(config: Config, gpus: int) -> Iterator[str]:
    for index, group in enumerate(config.instance_group):
        called = f"instance group {group.name or f'{config.name}_{index}'} of model {config.name}"
        on_gpus = group.kind == group.KIND_GPU
        if group.count < 0:
            yield f"{called} has {group.count} instances"
        if on_gpus and not gpus:
            yield f"{called} has kind KIND_GPU but no GPUs are available"
        elif group.kind == group.KIND_CPU and group.gpus:
            yield f"{called} has kind KIND_CPU but specifies one or more GPUs"
        for gpu in group.gpus if on_gpus and gpus else ():
            if gpu not in range(gpus):
                yield f"{called} specifies invalid or unsupported gpu id {gpu}: the machine has {gpus}"


def _ensemble(config: Config, models: Mapping[str, Config]) -> Iterator[str]:
    name, steps = config.name, config.ensemble_scheduling.step
    if config.platform != _ENSEMBLE:
        return
    if not steps:
        yield f"ensemble scheduling must be set for ensemble {name} whose platform is ensemble"
        return
    tensors = {tensor.name: ("ensemble " + name, tensor) for tensor in [*config.input, *config.output]}
    for index, step in enumerate(steps):
        unset = [field for field in ("model_name", "input_map", "output_map") if not getattr(step, field)]
        if unset:
            yield f"must specify '{unset[0]}' in step {index} of ensemble '{name}'"
            continue
        model = models.get(step.model_name)
        if model is None:
            yield f"ensemble {name} contains models that are not available or ambiguous: {step.model_name}"
            continue
        if 0 < model.max_batch_size < config.max_batch_size:
            yield (
                f"ensemble {name} allows maximum batch size {config.max_batch_size}, but it contains model "
                f"{model.name} which only allows maximum batch size to be {model.max_batch_size}"
            )
        yield from _step(name, step, model, tensors)
    made = {tensor for step in steps for tensor in step.output_map.values()}
    for output in config.output:
        if output.name not in made:
            yield f"ensemble output '{output.name}' for ensemble {name}' is not used"


def _step(ensemble: str, step: Any, model: Config, tensors: dict[str, tuple[str, Any]]) -> Iterator[str]:  # noqa: ANN401 - see Config
    """Hold a step's maps against its model; ``tensors`` learns the ensemble's tensors, and who knows them."""
    sides = (
        (step.input_map, model.input, "mapping to non-existing input"),
        (step.output_map, model.output, "mapped from non-existing output"),
    )
    for mapping, own, missing in sides:
        known = {tensor.name: tensor for tensor in own}
        for inner, outer in sorted(mapping.items()):
            called = f"in ensemble {ensemble}, ensemble tensor {outer}"
            if inner not in known:
                yield f"{called} is {missing} {inner} in model {model.name}"
                continue
            owner, tensor = tensors.setdefault(outer, (model.name, known[inner]))
            if tensor.data_type != known[inner].data_type:
                yield f"{called}: inconsistent data type of {owner} and {model.name}"
            elif not _same_shape(tensor.dims, known[inner].dims):
                shapes = f"{list(tensor.dims)} of {owner}, {list(known[inner].dims)} of {model.name}"
                yield f"{called}: inconsistent shape: {shapes}"
    for tensor in model.input:
        if tensor.name not in step.input_map and not tensor.optional:
            yield (
                f"in ensemble {ensemble}, input {tensor.name} in model {model.name} "
                "is not mapped to any ensemble tensors"
            )


def _same_shape(left: list[int], right: list[int]) -> bool:
    return len(left) == len(right) and all(a == b or -1 in (a, b) for a, b in zip(left, right, strict=True))
