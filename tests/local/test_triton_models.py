"""The project's models in a real Triton: all variants, ensembles, and the options of serving.

The models are exported into the user's cache, where they stay: the first run takes minutes, see test_model_export.
"""

import importlib
import io
import json
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tritonclient.utils import InferenceServerException

from localcloud.triton import Triton, TritonInstall, install
from model_repo.build import ModelArtifact, build, cache_path
from model_repo.pipeline.classes import softmax
from model_repo.pipeline.image import Transform
from model_repo.pipeline.tokenizer import WordPiece
from model_repo.recipe import named_recipe
from model_repo.sample import Array, reference_outputs, sample_inputs
from model_repo.spec import load_spec
from model_repo.variant import VARIANTS
from model_repo.vocabulary import made_up_vocabulary

triton_http: Any = importlib.import_module("tritonclient.http")  # untyped

NAMES = ["bert-small", "resnet50"]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> TritonInstall:
    return install(tmp_path_factory.mktemp("triton"))


@contextmanager
def served(installed: TritonInstall, repository: Path, log: Path, *options: str) -> Generator[Triton]:
    arguments = [f"--model-repository={repository}", "--allow-grpc=false", *options]
    ready = (8000, "/v2/health/ready")
    triton = Triton(installed, arguments, {}, ports=[8000, 8002], ready=ready, seconds=120, log=log)
    try:
        yield triton
    finally:
        triton.stop()


def client(triton: Triton) -> Any:
    host, port = triton.pod.addresses[8000]
    return triton_http.InferenceServerClient(f"{host}:{port}", concurrency=8, network_timeout=60)


def tensors(arrays: dict[str, Array], types: dict[str, str]) -> list[Any]:
    made: list[Any] = []
    for name, array in arrays.items():
        made.append(triton_http.InferInput(name, array.shape, types[name]))
        made[-1].set_data_from_numpy(array)
    return made


def folder_of(artifact: ModelArtifact) -> Path:
    assert artifact.folder
    return artifact.folder


def test_all_eight_variants_load_and_answer_as_onnxruntime_does(installed: TritonInstall, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    for name in NAMES:
        for variant in VARIANTS:
            # Warm-up has a test of its own: here it would take half of the time.
            artifact = build(named_recipe(name, variant, serving={"warmup": ()}), print)
            target = repository / f"{name}-{variant}"
            shutil.copytree(folder_of(artifact) / name, target, copy_function=lambda a, b: Path(b).hardlink_to(a))
            config = (target / "config.pbtxt").read_text()
            (target / "config.pbtxt").unlink()
            (target / "config.pbtxt").write_text(config.replace(f'name: "{name}"', f'name: "{name}-{variant}"', 1))
    with served(installed, repository, tmp_path / "log", "--allow-metrics=false") as triton, client(triton) as http:
        for name in NAMES:
            spec = load_spec(name)
            inputs = sample_inputs(spec, 3)
            onnx = repository / f"{name}-pt-base" / "1" / "model.onnx"
            expected = reference_outputs(onnx, inputs)["logits"]
            sent = tensors(inputs, {tensor.name: tensor.dtype for tensor in spec.inputs})
            for variant in VARIANTS:
                answer = http.infer(f"{name}-{variant}", sent).as_numpy("logits")
                assert np.abs(answer - expected).max() < TOLERANCE, variant


def test_a_text_model_in_an_ensemble_takes_text_and_gives_classes(installed: TritonInstall, tmp_path: Path) -> None:
    lines: list[str] = []
    folder = folder_of(build(named_recipe("bert-small", "trt-db", serving={"ensemble": True}), lines.append))
    vocabulary = (folder / "bert-small-input/1/vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    assert len(vocabulary) == 30522
    assert any("VOCABULARY IS MADE UP" in line for line in lines) == ("[unused5000]" in vocabulary)
    texts = ["An unaffable film.", "¡Qué película, wunderschön! 你好"]
    tokenize = WordPiece(vocabulary)
    ids, mask = np.zeros((2, 128), np.int32), np.zeros((2, 128), np.int32)
    for row, text in enumerate(texts):
        tokens = tokenize(text, 128)
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    onnx = folder / "bert-small-model/1/model.onnx"
    scores = reference_outputs(onnx, {"input_ids": ids, "attention_mask": mask})["logits"]
    with served(installed, folder, tmp_path / "log", "--allow-metrics=false") as triton, client(triton) as http:
        sent = tensors({"text": np.array([[text.encode()] for text in texts], np.object_)}, {"text": "BYTES"})
        answer = http.infer("bert-small", sent)
    probabilities = answer.as_numpy("probability")
    np.testing.assert_allclose(probabilities, -np.sort(-softmax(scores), axis=1), atol=TOLERANCE)
    names = np.array([b"negative", b"positive"], np.object_)
    np.testing.assert_array_equal(answer.as_numpy("label"), names[np.argsort(-scores, axis=1)])


def test_our_tokenizer_gives_the_tokens_that_the_models_own_one_does(tmp_path: Path) -> None:
    build(named_recipe("bert-small", "trt-db"), print)  # for the environment, which has the original
    made_up = made_up_vocabulary(30522).decode().rstrip("\n").split("\n")
    vocabulary = [*made_up[:-6], "hello", "wor", "##ld", "##s", "你", "naive"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    texts = [
        "Hello, worlds!",
        "naïve NAÏVE wor ld",
        "你好 hello你world",
        "tab\there\u00a0and\u2003there\r\nnew",
        "zero\u200bwidth\ufffd\x00\x07 control",
        "$5.00 + 3^2 ~ `x` | <a> @me #1 _x_ €10 «q» — …",
        "İstanbul ẞtraße ﬁne Å Ω ǅ",
        "한국어 ひらがな กขค",
        "x" * 100 + " " + "x" * 101,
        "👍🏽 ok",
        "",
    ]
    program = (
        "import json, sys, tokenizers\n"
        "original = tokenizers.BertWordPieceTokenizer(sys.argv[1], lowercase=True)\n"
        "print(json.dumps([original.encode(text).ids for text in json.load(sys.stdin)]))"
    )
    python = cache_path() / "export-environment" / "bin" / "python"
    command = [str(python), "-c", program, str(tmp_path / "vocab.txt")]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True)
    tokenize = WordPiece(vocabulary)
    assert [tokenize(text, 512) for text in texts] == json.loads(done.stdout)


def test_an_image_model_in_an_ensemble_takes_a_file_and_gives_the_top_classes(
    installed: TritonInstall, tmp_path: Path
) -> None:
    recipe = named_recipe("resnet50", "trt-db", serving={"ensemble": True, "warmup": ()})
    folder = folder_of(build(recipe, print))
    pixels = (255 * np.random.default_rng(0).random((300, 400, 3))).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    assert recipe.spec.pipeline
    transform = Transform({**recipe.spec.pipeline.model_dump(), "height": 224, "width": 224})
    onnx = folder / "resnet50-model/1/model.onnx"
    scores = reference_outputs(onnx, {"image": transform(file.getvalue())[None]})["logits"]
    labels = (folder / "resnet50-classes/1/labels.txt").read_text().splitlines()
    with served(installed, folder, tmp_path / "log", "--allow-metrics=false") as triton, client(triton) as http:
        content = np.frombuffer(file.getvalue(), np.uint8)[None]
        answer = http.infer("resnet50", tensors({"image_file": content}, {"image_file": "UINT8"}))
        best = np.argsort(-scores[0])[:5]
        assert [label.decode() for label in answer.as_numpy("label")[0]] == [labels[index] for index in best]
        np.testing.assert_allclose(answer.as_numpy("probability")[0], softmax(scores)[0][best], atol=TOLERANCE)
        with pytest.raises(InferenceServerException, match="image_file: not an image that can be decoded"):
            http.infer("resnet50", tensors({"image_file": content[:, 100:]}, {"image_file": "UINT8"}))


def test_a_model_is_warmed_up_before_it_is_ready(installed: TritonInstall, tmp_path: Path) -> None:
    folder = folder_of(build(named_recipe("bert-small", "trt-ig"), print))
    with served(installed, folder, tmp_path / "log", "--allow-metrics=false", "--log-verbose=1"):
        log = (tmp_path / "log").read_text()
    for sample in ("batch-1", "batch-16"):
        assert log.count(f"running warmup sample '{sample}'") == 2  # one for each instance


def test_equal_requests_are_answered_from_the_cache(installed: TritonInstall, tmp_path: Path) -> None:
    recipe = named_recipe("bert-small", "trt-db", serving={"response_cache": True, "warmup": ()})
    sent = tensors(sample_inputs(recipe.spec, 1), {"input_ids": "INT32", "attention_mask": "INT32"})
    folder, log = folder_of(build(recipe, print)), tmp_path / "log"
    with served(installed, folder, log, "--cache-config=local,size=1048576") as triton, client(triton) as http:
        answers = [http.infer("bert-small", sent).as_numpy("logits") for _ in range(3)]
        metrics = triton.request(8002, "GET", "/metrics")[2].decode()
    assert 'nv_cache_num_hits_per_model{model="bert-small",version="1"} 2' in metrics
    assert 'nv_inference_exec_count{model="bert-small",version="1"} 1' in metrics
    np.testing.assert_array_equal(answers[0], answers[2])


def test_a_full_queue_refuses_the_next_request(installed: TritonInstall, tmp_path: Path) -> None:
    queue = {"max_queue_size": 2}
    serving = {"queue": queue, "max_queue_delay_microseconds": 500_000, "warmup": ()}
    recipe = named_recipe("bert-small", "trt-db", serving=serving)
    sent = tensors(sample_inputs(recipe.spec, 1), {"input_ids": "INT32", "attention_mask": "INT32"})
    refusals: list[str] = []
    with (
        served(installed, folder_of(build(recipe, print)), tmp_path / "log", "--allow-metrics=false") as triton,
        client(triton) as http,
    ):
        # Waiting for more until the delay is over, the batcher holds what has come in the queue.
        for pending in [http.async_infer("bert-small", sent) for _ in range(8)]:
            try:
                pending.get_result()
            except InferenceServerException as error:
                refusals.append(str(error))
    assert 0 < len(refusals) < 8
    assert all("Exceeds maximum queue size" in refusal for refusal in refusals)
