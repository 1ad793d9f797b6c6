"""Sample inputs: what a caller could send."""

import numpy as np
import pytest

from model_repo.sample import NUMPY_TYPES, sample_inputs
from model_repo.spec import TransformersSource, load_spec, spec_names


@pytest.mark.parametrize("name", spec_names())
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_batch_has_the_shapes_and_types_of_the_spec_in_its_order(name: str, batch_size: int) -> None:
    spec = load_spec(name)
    inputs = sample_inputs(spec, batch_size)
    assert list(inputs) == [tensor.name for tensor in spec.inputs]
    for tensor in spec.inputs:
        assert inputs[tensor.name].shape == (batch_size, *tensor.dims)
        assert inputs[tensor.name].dtype == NUMPY_TYPES[tensor.dtype]


def test_the_same_seed_draws_the_same_and_another_draws_other_values() -> None:
    spec = load_spec("bert-small")
    first, again, other = (sample_inputs(spec, 2, seed)["input_ids"] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_token_ids_are_in_the_vocabulary_and_reach_across_it() -> None:
    spec = load_spec("bert-small")
    assert isinstance(spec.source, TransformersSource)
    ids = sample_inputs(spec, 100)["input_ids"]
    vocabulary = spec.source.architecture.vocab_size
    assert ids.min() >= 0
    assert vocabulary * 0.9 < ids.max() < vocabulary


def test_a_mask_is_a_text_of_at_least_one_token_and_then_padding() -> None:
    mask = sample_inputs(load_spec("bert-small"), 200)["attention_mask"]
    assert set(np.unique(mask)) == {0, 1}
    assert (mask[:, 0] == 1).all()
    assert (np.diff(mask, axis=1) <= 0).all()


def test_pixels_are_normalised() -> None:
    image = sample_inputs(load_spec("resnet50"), 1)["image"]
    assert abs(image.mean()) < 0.05
    assert abs(image.std() - 1) < 0.05
