"""The steps around a model, each by itself; tests/local has them inside a real Triton."""

import io
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model_repo.ensemble import ensemble_files
from model_repo.pipeline.classes import softmax
from model_repo.pipeline.image import Transform
from model_repo.pipeline.tokenizer import WordPiece
from model_repo.recipe import named_recipe
from model_repo.spec import TransformersSource, load_spec
from model_repo.vocabulary import VocabularyError, fetch_vocabulary, made_up_vocabulary
from model_repo.yamlfile import SpecError

VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "un",
    "##aff",
    "##able",
    "film",
    ",",
    "!",
    "e",
    "##te",
    "你",
    "好",
    "s",
]
SETTINGS = {"resize": 8, "height": 4, "width": 4, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def tokens(text: str, length: int = 32) -> list[str]:
    return [VOCABULARY[index] for index in WordPiece(VOCABULARY)(text, length)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unaffable", ["un", "##aff", "##able"]),
        ("UNAFFABLE  film!", ["un", "##aff", "##able", "film", "!"]),
        ("Été,été", ["e", "##te", ",", "e", "##te"]),
        ("你好", ["你", "好"]),
        ("unfilm", ["[UNK]"]),
        ("film\u0000 fi\u200blm\tfilm", ["film", "film", "film"]),
        ("film" * 26, ["[UNK]"]),
        ("", []),
    ],
)
def test_text_becomes_the_longest_pieces_that_there_are(text: str, words: list[str]) -> None:
    assert tokens(text) == ["[CLS]", *words, "[SEP]"]


def test_a_long_text_is_cut_and_still_ends() -> None:
    assert tokens("film " * 50, length=5) == ["[CLS]", "film", "film", "film", "[SEP]"]


def test_a_made_up_vocabulary_has_its_size_and_spells_every_ascii_word() -> None:
    lines = made_up_vocabulary(30522).decode().rstrip("\n").split("\n")
    assert len(lines) == len(set(lines)) == 30522
    assert [lines.index(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")] == [0, 100, 101, 102]
    ids = WordPiece(lines)("Any word, e.g. zebra-42 (really)!", 128)
    assert lines.index("[UNK]") not in ids
    assert made_up_vocabulary(30522) == made_up_vocabulary(30522)


class _Hub(BaseHTTPRequestHandler):
    """Answers with what the test put there."""

    status, content = 200, b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.content)
        _Hub.asked = self.path

    asked = ""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Generator[type[_Hub]]:
    """A hub on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield _Hub
    server.shutdown()
    server.server_close()


def bert_source() -> TransformersSource:
    source = load_spec("bert-small").source
    assert isinstance(source, TransformersSource)
    return source


def test_a_vocabulary_is_the_hubs_at_the_pinned_revision(hub: type[_Hub]) -> None:
    hub.status, hub.content = 200, made_up_vocabulary(30522)
    source = bert_source()
    assert fetch_vocabulary(source) == hub.content
    assert hub.asked == f"/{source.hub.id}/resolve/{source.hub.revision}/vocab.txt"


@pytest.mark.parametrize(
    ("status", "size", "reason"),
    [(404, 30522, "404 Not Found: correct the spec"), (200, 30521, "has 30521 tokens, .*vocab_size is 30522")],
)
def test_a_vocabulary_that_does_not_fit_is_an_error(hub: type[_Hub], status: int, size: int, reason: str) -> None:
    hub.status, hub.content = status, made_up_vocabulary(size)
    with pytest.raises(VocabularyError, match=reason):
        fetch_vocabulary(bert_source())


def test_a_hub_that_is_out_of_order_or_out_of_reach_has_none(hub: type[_Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.status = 503
    assert fetch_vocabulary(bert_source()) is None
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert fetch_vocabulary(bert_source()) is None


def encoded(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_an_image_is_resized_cut_and_normalised_channels_first() -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 12:20] = [255, 0, 128]  # resized by half, the middle 4 of 16 columns
    result = Transform(SETTINGS)(encoded(pixels))
    assert result.shape == (3, 4, 4)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[:, 1, 1:3], [[2, 2], [-2, -2], [0.00784, 0.00784]], atol=1e-3)


def test_grey_images_and_those_with_transparency_are_taken_too() -> None:
    assert Transform(SETTINGS)(encoded(np.zeros((9, 9), np.uint8))).shape == (3, 4, 4)
    assert Transform(SETTINGS)(encoded(np.zeros((9, 9, 4), np.uint8))).shape == (3, 4, 4)


@pytest.mark.parametrize("content", [b"", b"text", encoded(np.zeros((64, 64, 3), np.uint8))[:60]])
def test_what_is_no_image_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="not an image that can be decoded"):
        Transform(SETTINGS)(content)


def test_a_small_file_that_unpacks_to_a_huge_image_is_refused_before_it_is_unpacked() -> None:
    file = io.BytesIO()
    Image.new("1", (20_000, 4_000)).save(file, "PNG")
    assert len(file.getvalue()) < 50_000
    with pytest.raises(ValueError, match="20000 x 4000 pixels are more than"):
        Transform(SETTINGS)(file.getvalue())


def test_softmax_is_stable_for_large_scores() -> None:
    np.testing.assert_allclose(
        softmax(np.array([[1000, 1000], [0, np.log(3)]], np.float32)), [[0.5, 0.5], [0.25, 0.75]]
    )


@pytest.mark.parametrize(
    ("labels", "reason"), [("none.txt", "cannot be read"), ("sentiment.txt", "has 2 lines for 1000")]
)
def test_labels_that_do_not_fit_are_refused(labels: str, reason: str) -> None:
    recipe = named_recipe("resnet50", "trt-db", serving={"ensemble": True})
    spec = recipe.spec
    assert spec.pipeline
    wrong = spec.model_copy(update={"pipeline": spec.pipeline.model_copy(update={"labels": labels})})
    with pytest.raises(SpecError, match=rf"^resnet50\.yaml: pipeline\.labels: {labels} {reason}"):
        ensemble_files(type(recipe)(wrong, recipe.variant, recipe.precision, recipe.device))


def test_a_gpu_decodes_images_by_dali_and_a_cpu_by_pillow_for_the_same_requests() -> None:
    files = {
        device: ensemble_files(named_recipe("resnet50", "trt-db", "fp32", device, {"ensemble": True}))
        for device in ("cpu", "t4")
    }
    assert "resnet50-input/1/dali.py" in files["t4"]
    assert "resnet50-input/1/model.py" in files["cpu"]
    for path in ("resnet50/config.pbtxt", "resnet50-input/1/image.json", "resnet50-classes/1/labels.txt"):
        assert files["cpu"][path] == files["t4"][path]
