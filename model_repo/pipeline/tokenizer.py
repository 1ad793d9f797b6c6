"""Text to token ids: a model of Triton's Python backend that needs numpy only, as NVIDIA's image has it.

Uncased WordPiece over the ``vocab.txt`` beside this file, padded and cut to the model's length.
Rules: https://github.com/google-research/bert/blob/master/tokenization.py
"""

import importlib
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

LONGEST_WORD = 100
"""Characters; a longer word is unknown."""

Request = Any
Response = Any
"""Of ``triton_python_backend_utils``, which has no types."""


class WordPiece:
    """The tokenizer of one vocabulary."""

    def __init__(self, vocabulary: list[str]) -> None:
        self._ids = {token: index for index, token in enumerate(vocabulary)}

    def __call__(self, text: str, length: int) -> list[int]:
        """At most ``length`` ids, from [CLS] to [SEP]."""
        pieces = [piece for word in _words(text) for piece in self._pieces(word)]
        return [self._ids["[CLS]"], *pieces[: length - 2], self._ids["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        """The longest pieces that there are, from the left; a word with a gap is unknown as a whole."""
        pieces: list[int] = []
        start = 0 if len(word) <= LONGEST_WORD else len(word) + 1
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self._ids), len(word) + 1)
            pieces.append(self._ids.get(prefix + word[start:end], -1))
            start = end
        return pieces if start == len(word) else [self._ids["[UNK]"]]


def _words(text: str) -> Iterator[str]:
    """Lower-case words and single punctuation marks, without accents."""
    cleaned = "".join(" " if char.isspace() else char for char in text if char.isspace() or not _is_control(char))
    spaced = "".join(f" {char} " if _is_cjk(char) else char for char in cleaned)
    plain = "".join(char for char in unicodedata.normalize("NFD", spaced) if unicodedata.category(char) != "Mn")
    for word in plain.lower().split():
        marked = "".join(f" {char} " if _is_punctuation(char) else char for char in word)
        yield from marked.split()


def _is_control(char: str) -> bool:
    return char in {"\0", "\ufffd"} or unicodedata.category(char).startswith("C")


def _is_cjk(char: str) -> bool:
    blocks = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))
    return any(first <= ord(char) <= last for first, last in blocks)


def _is_punctuation(char: str) -> bool:
    # Among them ASCII's symbols, such as $ and ^, which Unicode counts elsewhere.
    return ("!" <= char <= "~" and not char.isalnum()) or unicodedata.category(char).startswith("P")


class TritonPythonModel:
    """One instance, by the Python backend's interface."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the vocabulary."""
        self._triton: Any = importlib.import_module("triton_python_backend_utils")  # exists inside Triton only
        folder = Path(args["model_repository"]) / args["model_version"]
        self._tokenize = WordPiece((folder / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n"))
        self._ids, self._mask = json.loads(args["model_config"])["output"]
        self._length = int(self._ids["dims"][0])

    def execute(self, requests: list[Request]) -> list[Response]:
        """Tokenize each request's texts."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Response:
        texts: list[bytes] = self._triton.get_input_tensor_by_name(request, "text").as_numpy().ravel().tolist()
        ids, mask = (
            np.zeros((len(texts), self._length), self._triton.triton_string_to_numpy(tensor["data_type"]))
            for tensor in (self._ids, self._mask)
        )
        for row, text in enumerate(texts):
            tokens = self._tokenize(text.decode(errors="replace"), self._length)
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        tensors = [self._triton.Tensor(self._ids["name"], ids), self._triton.Tensor(self._mask["name"], mask)]
        return self._triton.InferenceResponse(tensors)
