# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUntypedBaseClass=false
# PyTorch and what goes with it are in the ``export`` environment only, where no type checker looks.
"""PyTorch to ONNX, run as ``python -m model_repo.export SPEC_FILE FOLDER`` in an environment of the ``export`` group.

The same spec gives the same bytes. Progress goes to stdout; what went wrong is the last line of stderr.
"""

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
import torchvision
import transformers
from huggingface_hub import hf_hub_url

from model_repo.exported import ONNX_NAME, RECORD_NAME, SEEDED_RANDOM, ExportedModel
from model_repo.manifest import ManifestFile
from model_repo.sample import reference_outputs, sample_inputs
from model_repo.spec import ModelSpec, SpecError, TorchvisionSource, TransformersSource, read_spec

TOLERANCE: Final = 1e-4
"""The largest absolute difference of an output from PyTorch's that an export may have."""

OPSET: Final = 18
"""The lowest that PyTorch exports without converting down, so the one that the most TensorRT versions parse."""

PROBE_SECONDS: Final = 3.0
"""How long a server of weights may take to answer before the machine counts as offline."""


class ExportError(RuntimeError):
    """A model that cannot be exported."""


def export(spec: ModelSpec, folder: Path) -> ExportedModel:
    """Write the model's ONNX file and its record into ``folder``.

    Raises:
        ExportError: the source does not exist, or the ONNX file answers differently from PyTorch.
    """
    model, weights = _load(spec)
    if weights == SEEDED_RANDOM:
        print(f"WARNING: {spec.name}: its weights could not be downloaded; made up random ones", file=sys.stderr)  # noqa: T201
    path = folder / ONNX_NAME
    _write_onnx(spec, model, path)
    error = _parity_error(spec, model, path)
    if not error <= TOLERANCE:
        raise ExportError(
            f"{spec.name}: the ONNX file's outputs differ from PyTorch's by {error:.2g}, over {TOLERANCE:g}"
        )
    file = ManifestFile.of(folder, path)
    exported = ExportedModel(weights=weights, parity_error=error, size_bytes=file.size_bytes, sha256=file.sha256)
    (folder / RECORD_NAME).write_text(exported.model_dump_json(indent=2) + "\n")
    return exported


def _load(spec: ModelSpec) -> tuple[torch.nn.Module, str]:
    """The model in evaluation mode, and where its weights are from."""
    torch.manual_seed(spec.source.seed)
    if isinstance(spec.source, TorchvisionSource):
        model, weights = _load_torchvision(spec, spec.source)
    else:
        model, weights = _load_bert(spec.source)
    return model.eval(), weights


class _Logits(torch.nn.Module):
    """A classifier that takes and gives plain tensors, as a server does."""

    def __init__(self, classifier: torch.nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.classifier(input_ids=input_ids, attention_mask=attention_mask).logits


def _load_bert(source: TransformersSource) -> tuple[torch.nn.Module, str]:
    config = transformers.BertConfig(**source.architecture.model_dump())
    hub = source.hub
    if _can_fetch(hf_hub_url(hub.id, "config.json", revision=hub.revision)):
        classifier, loading = transformers.BertForSequenceClassification.from_pretrained(
            hub.id, revision=hub.revision, config=config, output_loading_info=True
        )
        # The head is ours; any other weight that is left over, or made up, is another architecture's.
        foreign = [
            key for keys in ("missing_keys", "unexpected_keys") for key in loading[keys] if key.startswith("bert.")
        ]
        if foreign:
            raise ExportError(f"{hub.id} is not of the spec's source.architecture: {min(foreign)} is on one side only")
        return _Logits(classifier), f"{hub.id}@{hub.revision}"
    return _Logits(transformers.BertForSequenceClassification(config)), SEEDED_RANDOM


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


def _write_onnx(spec: ModelSpec, model: torch.nn.Module, path: Path) -> None:
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
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _parts(proto: onnx.ModelProto) -> Iterator[Any]:
    """All that PyTorch notes stack traces on: they name the files of the machine that exported."""
    graph = proto.graph
    yield from (proto, graph)
    for field in (graph.node, graph.initializer, graph.value_info, graph.input, graph.output, proto.functions):
        yield from field
    for function in proto.functions:
        yield from (*function.node, *function.value_info)


def _parity_error(spec: ModelSpec, model: torch.nn.Module, path: Path) -> float:
    """The largest absolute difference of the ONNX file's outputs from PyTorch's, for one sample and for three."""
    errors: list[float] = []
    for batch_size in (1, 3):
        inputs = sample_inputs(spec, batch_size, seed=batch_size)
        with torch.inference_mode():
            expected = model(*_tensors(spec, batch_size)).numpy()
        actual = reference_outputs(path, inputs)[spec.outputs[0].name]
        if actual.shape != (batch_size, *spec.outputs[0].dims):
            raise ExportError(f"{spec.name}.yaml: outputs.0.dims: the model gives {list(actual.shape[1:])}")
        errors.append(float(np.abs(actual - expected).max()))
    return max(errors)


def main(spec_file: str, folder: str) -> None:
    """Export the model of ``spec_file`` into the existing ``folder``."""
    try:
        spec = read_spec(Path(spec_file))
        exported = export(spec, Path(folder))
    except (ExportError, SpecError) as error:
        sys.exit(str(error))
    print(f"{spec.name}: equal to PyTorch within {exported.parity_error:.1g}; weights: {exported.weights}")  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
