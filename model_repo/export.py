# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUntypedBaseClass=false
# pyright: reportUnknownLambdaType=false
# PyTorch and what goes with it are in the ``export`` environment only, where no type checker looks.
"""PyTorch to ONNX or TorchScript, in an environment of the ``export`` group.

Run as ``python -m model_repo.export SPEC_FILE FOLDER FORM``. The same spec gives the same bytes. Progress goes to
stdout; what went wrong is the last line of stderr.
"""

import sys
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast, get_args

import numpy as np
import onnx
import torch
import torchvision
import transformers
from huggingface_hub import hf_hub_url

from model_repo.exported import (
    DATA_NAME,
    ONNX_NAME,
    RECORD_NAME,
    SEEDED_RANDOM,
    TORCHSCRIPT_NAME,
    ExportedModel,
    Form,
)
from model_repo.manifest import ManifestFile
from model_repo.sample import Array, reference_outputs, sample_inputs
from model_repo.spec import Gpt2Source, ModelSpec, SpecError, TorchvisionSource, TransformersSource, read_spec

TOLERANCES: Final[dict[Form, float]] = {"onnx": 1e-4, "torchscript": 1e-4, "torchscript-fp16": 0.1}
"""The largest absolute difference of an output from PyTorch's in FP32 that a form may have.

FP16 has 11 bits: the most seen, of scores up to 2.0, is 0.075, in the 53 convolutions of a ResNet-50 of random weights.
"""

OPSET: Final = 18
"""The lowest that PyTorch exports without converting down, so the one that the most TensorRT versions parse."""

ONE_FILE_BYTES: Final = 2**31 - 2**20
"""The most weights that go into ``model.onnx`` itself: protobuf has no message of 2 GiB
(https://protobuf.dev/programming-guides/proto-limits/), and the graph takes its share."""

_EXTERNAL_TENSOR_BYTES: Final = 1024
"""Smaller ones, shapes and axes, stay in the graph: TensorRT and shape inference read them from there."""

_WRITER_S_OWN: Final = {"version", "byteorder", ".data/version", ".data/serialization_id"}
"""What PyTorch adds to every archive that it writes."""

PROBE_SECONDS: Final = 3.0
"""How long a server of weights may take to answer before the machine counts as offline."""


class ExportError(RuntimeError):
    """A model that cannot be exported."""


def export(spec: ModelSpec, folder: Path, form: Form) -> ExportedModel:
    """Write the model in a form, any but ``int8``, and its record into ``folder``.

    Raises:
        ExportError: the source does not exist, or what was written answers differently from PyTorch.
    """
    model, weights = _load(spec)
    if weights == SEEDED_RANDOM:
        print(f"WARNING: {spec.name}: its weights could not be downloaded; made up random ones", file=sys.stderr)  # noqa: T201
    samples = [sample_inputs(spec, batch_size, seed=batch_size) for batch_size in (1, 3)]
    expected = [_answer(model, inputs) for inputs in samples]
    if form == "onnx":
        paths = _write_onnx(spec, model, folder)
        actual = [reference_outputs(paths[0], inputs)[spec.outputs[0].name] for inputs in samples]
    else:
        paths = [_write_torchscript(spec, _halved(model) if form == "torchscript-fp16" else model, folder)]
        actual = [_answer(_read_torchscript(paths[0]), inputs) for inputs in samples]
    files = tuple(ManifestFile.of(folder, path) for path in paths)
    exported = ExportedModel(weights=weights, parity_error=_parity_error(spec, form, expected, actual), files=files)
    (folder / RECORD_NAME).write_text(exported.model_dump_json(indent=2) + "\n")
    return exported


def _answer(model: torch.nn.Module, inputs: dict[str, Array]) -> Array:
    with torch.inference_mode():
        return model(*map(torch.from_numpy, inputs.values())).numpy()


def _parity_error(spec: ModelSpec, form: Form, expected: list[Array], actual: list[Array]) -> float:
    """The largest absolute difference of a form's answers from PyTorch's, each in batches of several sizes."""
    for ours, theirs in zip(actual, expected, strict=True):
        if ours.shape != (len(theirs), *spec.outputs[0].dims):
            raise ExportError(f"{spec.name}.yaml: outputs.0.dims: the model gives {list(ours.shape[1:])}")
    error = max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(actual, expected, strict=True))
    if not error <= TOLERANCES[form]:
        raise ExportError(
            f"{spec.name}: outputs of the {form} differ from PyTorch's by {error:.2g}, over {TOLERANCES[form]:g}"
        )
    return error


def _load(spec: ModelSpec) -> tuple[torch.nn.Module, str]:
    """The model in evaluation mode, and where its weights are from."""
    torch.manual_seed(spec.source.seed)
    match spec.source:
        case TorchvisionSource():
            model, weights = _load_torchvision(spec, spec.source)
        case TransformersSource():
            model, weights = _load_bert(spec.source)
        case Gpt2Source():
            model, weights = _load_gpt2(spec.source, sequence_length=spec.inputs[0].dims[0])
    return model.eval().requires_grad_(requires_grad=False), weights


class _Classifier(torch.nn.Module):
    """A BERT classifier that takes and gives plain tensors, as a server does."""

    def __init__(self, classifier: torch.nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        # Four dimensions are used as they are. From two, transformers makes four by code that a trace ties to the CPU.
        mask = attention_mask[:, None, None, :].to(torch.bool)
        return self.classifier(input_ids=input_ids, attention_mask=mask).logits


class _NextToken(torch.nn.Module):
    """A GPT-2 that gives the scores of the token after the text: those of all positions would be 25 MB a request."""

    def __init__(self, language_model: torch.nn.Module, sequence_length: int) -> None:
        super().__init__()
        self.language_model = language_model
        # Buffers, which move to the GPU with the weights.
        causal = torch.ones(sequence_length, sequence_length, dtype=torch.bool).tril()
        self.register_buffer("causal", causal[None, None], persistent=False)
        self.register_buffer("positions", torch.arange(sequence_length)[None], persistent=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        text = attention_mask.to(torch.bool)
        mask = self.causal & text[:, None, None, :]
        hidden = self.language_model.transformer(
            input_ids=input_ids, attention_mask=mask, position_ids=self.positions, use_cache=False
        ).last_hidden_state
        last = (text.sum(dim=1) - 1).clamp(min=0)  # an empty text must not stop a GPU
        index = last[:, None, None].expand(-1, 1, hidden.shape[2])
        return self.language_model.lm_head(hidden.gather(1, index)[:, 0])


def _load_bert(source: TransformersSource) -> tuple[torch.nn.Module, str]:
    config = transformers.BertConfig(**source.architecture.model_dump())
    model, weights = _load_transformers(source, transformers.BertForSequenceClassification, config, ours="classifier.")
    return _Classifier(model), weights


def _load_gpt2(source: Gpt2Source, sequence_length: int) -> tuple[torch.nn.Module, str]:
    config = transformers.GPT2Config(**source.architecture.model_dump())
    model, weights = _load_transformers(source, transformers.GPT2LMHeadModel, config, ours="lm_head.")
    return _NextToken(model, sequence_length), weights


def _load_transformers(
    source: TransformersSource | Gpt2Source,
    kind: type[transformers.PreTrainedModel],
    config: transformers.PreTrainedConfig,
    ours: str,
) -> tuple[torch.nn.Module, str]:
    """The hub's model, or a random one; ``ours``: the weights that the hub need not have."""
    hub = source.hub
    if not _can_fetch(hf_hub_url(hub.id, "config.json", revision=hub.revision)):
        return kind(config), SEEDED_RANDOM
    model, loading = kind.from_pretrained(hub.id, revision=hub.revision, config=config, output_loading_info=True)
    # The hub may have another task's head too. Any other weight left over, or made up, is another architecture's.
    body = f"{kind.base_model_prefix}."
    foreign = [key for key in loading["missing_keys"] if not key.startswith(ours)]
    foreign += [key for key in loading["unexpected_keys"] if key.startswith(body)]
    if foreign:
        raise ExportError(f"{hub.id} is not of the spec's source.architecture: {min(foreign)} is on one side only")
    return model, f"{hub.id}@{hub.revision}"


def _load_torchvision(spec: ModelSpec, source: TorchvisionSource) -> tuple[torch.nn.Module, str]:
    try:
        weights = torchvision.models.get_weight(source.weights)
        model = torchvision.models.get_model(source.model)
    except ValueError as error:
        raise ExportError(f"{spec.name}.yaml: source: {error}; torchvision has no such model or weights") from error
    if _can_fetch(weights.url):
        model.load_state_dict(weights.get_state_dict(progress=False, check_hash=True))
        return model, source.weights
    _settle_batch_norms(model, _tensors(spec, batch_size=16)[0])
    return model, SEEDED_RANDOM


def _settle_batch_norms(model: torch.nn.Module, images: torch.Tensor) -> None:
    """Give random weights the statistics that they produce: without, every layer doubles what passes through it."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the plain average of all batches seen, here one
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a sum's last bit depends on how many threads share it
    with torch.no_grad():
        model.train()(images)
    torch.set_num_threads(threads)


def _can_fetch(url: str) -> bool:
    """Whether ``url`` can be downloaded from here; a server that does not know it is an error."""
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the hub's and torchvision's own, https
    try:
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code in {401, 404}:  # the hub says 401 of a repository that does not exist
            raise ExportError(f"{url}: {error.code} {error.reason}: correct the spec's source") from error
        return False
    except OSError:
        return False
    return True


def _tensors(spec: ModelSpec, batch_size: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in sample_inputs(spec, batch_size, seed=batch_size).values())


def _write_onnx(spec: ModelSpec, model: torch.nn.Module, folder: Path) -> list[Path]:
    """Write the graph, then the weights where they are too large to lie in the same file."""
    batch = torch.export.Dim("batch", min=1, max=spec.profile.max)
    program = torch.onnx.export(
        model,
        _tensors(spec, batch_size=2),
        input_names=[tensor.name for tensor in spec.inputs],
        output_names=[tensor.name for tensor in spec.outputs],
        dynamic_shapes=tuple({0: batch} for _ in spec.inputs),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    proto = program.model_proto
    for part in _parts(proto):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    paths = [folder / ONNX_NAME]
    if sum(len(tensor.raw_data) for tensor in proto.graph.initializer) > ONE_FILE_BYTES:
        paths.append(folder / DATA_NAME)
        _move_weights_out(proto, paths[1])
    paths[0].write_bytes(proto.SerializeToString(deterministic=True))
    return paths


def _move_weights_out(proto: onnx.ModelProto, path: Path) -> None:
    """Write the weights to ``path``, and into the graph their hash, so that its own hash stands for both files."""
    onnx.external_data_helper.convert_model_to_external_data(
        proto, location=path.name, size_threshold=_EXTERNAL_TENSOR_BYTES
    )
    onnx.external_data_helper.write_external_data_tensors(proto, str(path.parent))
    proto.metadata_props.add(key=f"{path.name}.sha256", value=ManifestFile.of(path.parent, path).sha256)


def _parts(proto: onnx.ModelProto) -> Iterator[Any]:
    """All that PyTorch notes stack traces on: they name the files of the machine that exported."""
    graph = proto.graph
    yield from (proto, graph)
    for field in (graph.node, graph.initializer, graph.value_info, graph.input, graph.output, proto.functions):
        yield from field
    for function in proto.functions:
        yield from (*function.node, *function.value_info)


def _halved(model: torch.nn.Module) -> torch.nn.Module:
    """The model with weights and arithmetic in FP16; its inputs and outputs keep the types of the spec."""
    model.register_forward_pre_hook(
        lambda _, inputs: tuple(tensor.half() if tensor.is_floating_point() else tensor for tensor in inputs)
    )
    model.register_forward_hook(lambda _, __, output: output.float())
    return model.half()


def _write_torchscript(spec: ModelSpec, model: torch.nn.Module, folder: Path) -> Path:
    """Trace the model, its weights frozen into it."""
    with warnings.catch_warnings():
        # TorchScript is deprecated, and what Triton's PyTorch backend loads; what a trace may miss, parity finds.
        warnings.simplefilter("ignore")
        traced = torch.jit.freeze(torch.jit.trace(model, _tensors(spec, batch_size=2), check_trace=False))
    constants = traced.graph.findAllNodes("prim::Constant")
    if any(isinstance(node.output().type(), torch.DeviceObjType) for node in constants):
        raise ExportError(f"{spec.name}: its code makes tensors on the device of the export, so no GPU could run it")
    path = folder / TORCHSCRIPT_NAME
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        whole = Path(temporary) / path.name
        traced.save(str(whole))
        _copy_without_traces(whole, path)
    return path


def _read_torchscript(path: Path) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.load(str(path))


def _copy_without_traces(whole: Path, path: Path) -> None:
    """Leave out the stack traces, which name the files of the machine that exported."""
    reader, writer = torch._C.PyTorchFileReader(str(whole)), torch._C.PyTorchFileWriter(str(path))
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name not in _WRITER_S_OWN:
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()


def main(spec_file: str, folder: str, form: str) -> None:
    """Export the model of ``spec_file`` in ``form`` into the existing ``folder``."""
    assert form in get_args(Form)  # noqa: S101 - the build's own call
    try:
        spec = read_spec(Path(spec_file))
        exported = export(spec, Path(folder), cast("Form", form))
    except (ExportError, SpecError) as error:
        sys.exit(str(error))
    print(f"{spec.name}: equal to PyTorch within {exported.parity_error:.1g}; weights: {exported.weights}")  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
