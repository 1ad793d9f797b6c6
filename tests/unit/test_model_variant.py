"""Variants: the eight of the benchmark."""

import itertools

import pytest

from model_repo.recipe import RecipeError, named_recipe
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


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("device", ["t4", "cpu"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_precision_exists_where_the_framework_and_the_device_have_it(
    variant: str, device: str, precision: str
) -> None:
    refused = (device, precision) == ("cpu", "fp16") or (variant.startswith("pt") and precision == "int8")
    if not refused:
        assert named_recipe("bert-small", variant, precision, device).precision == precision
        return
    with pytest.raises(RecipeError, match=f"^bert-small {variant} {precision} for {device}: ") as caught:
        named_recipe("bert-small", variant, precision, device)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("precision", ["tf32", "BF16"])
def test_what_a_t4_lacks_is_told_so(precision: str) -> None:
    with pytest.raises(RecipeError, match=f'^"{precision}" does not exist on a T4'):
        named_recipe("bert-small", "trt-db", precision)


def test_an_option_of_instances_counts_in_an_ig_variant_only() -> None:
    assert named_recipe("bert-small", "trt-ig", serving={"instances": 4}).instances_per_gpu == 4
    assert named_recipe("bert-small", "trt-base").instances_per_gpu == 1
    with pytest.raises(RecipeError, match=r"^instances: trt-base has one instance a GPU; use trt-ig$"):
        named_recipe("bert-small", "trt-base", serving={"instances": 4})
