"""The vocabulary of a text model: the hub's, or where the hub cannot be reached a made-up one of the same size."""

import os
import string
from typing import Final

import requests

from model_repo.spec import TransformersSource

_TIMEOUT_S: Final = 3.0
"""How long the hub may be silent before the machine counts as offline."""

_FIRST_TOKEN: Final = 104
"""BERT's special tokens lie below."""


class VocabularyError(RuntimeError):
    """The hub has no vocabulary for a model."""


def fetch_vocabulary(source: TransformersSource) -> bytes | None:
    """The ``vocab.txt`` of the source's revision, or None where the hub cannot be reached.

    ``HF_ENDPOINT`` names another hub, as for Hugging Face's own tools.

    Raises:
        VocabularyError: the hub answers, and has none that fits.
    """
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    url = f"{hub}/{source.hub.id}/resolve/{source.hub.revision}/vocab.txt"
    try:
        response = requests.get(url, timeout=_TIMEOUT_S)
    except requests.RequestException:
        return None
    if response.status_code in {401, 404}:  # the hub says 401 of a repository that does not exist
        raise VocabularyError(f"{url}: {response.status_code} {response.reason}: correct the spec's source.hub")
    if not response.ok:
        return None
    found, size = len(response.content.rstrip(b"\n").split(b"\n")), source.architecture.vocab_size
    if found != size:
        raise VocabularyError(f"{url} has {found} tokens, source.architecture.vocab_size is {size}: correct the spec")
    return response.content


def made_up_vocabulary(size: int) -> bytes:
    """BERT's special tokens at their places, then single characters: enough to spell what is written in ASCII.

    Args:
        size: of the vocabulary, as the model's embeddings have it: 300 at least.
    """
    characters = string.ascii_lowercase + string.digits + string.punctuation
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    spelled = [*characters, *(f"##{char}" for char in string.ascii_lowercase + string.digits)]
    known = special | dict(enumerate(spelled, _FIRST_TOKEN))
    tokens = [known.get(index, f"[unused{index}]") for index in range(size)]
    return ("\n".join(tokens) + "\n").encode()
