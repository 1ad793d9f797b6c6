"""Variants: the eight of the benchmark."""

import itertools

import pytest

from model_repo.variant import VARIANTS, VariantError, parse_variant


def test_there_is_one_for_each_combination_and_its_name_says_which() -> None:
    for framework, instances, batching in itertools.product(("pt", "trt"), (1, 2), (False, True)):
        suffix = "-".join([*["ig"][: instances - 1], *["db"][:batching]]) or "base"
        variant = parse_variant(f"{framework}-{suffix}")
        assert (variant.framework, variant.instances_per_gpu, variant.dynamic_batching) == (
            framework,
            instances,
            batching,
        )
    assert len(VARIANTS) == 8


def test_the_benchmark_tables_other_spelling_is_the_same_variant() -> None:
    assert parse_variant("trt-db-ig") is parse_variant("trt-ig-db")


@pytest.mark.parametrize("text", ["", "TRT-DB", "trt", "pt-db-ig", "trt-db ", 'trt"\n'])
def test_another_name_is_refused_in_one_line_that_lists_all(text: str) -> None:
    with pytest.raises(VariantError) as caught:
        parse_variant(text)
    assert str(caught.value).endswith("one of " + ", ".join(VARIANTS))
    assert "\n" not in str(caught.value)
