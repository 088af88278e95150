"""The rule that turns a size into layers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from potstill.check.sizes import TEACHER
from potstill.prune.depth import sensible_layers
from potstill.prune.shape import choose_shape, count_parameters, cut_share
from potstill.recipe import PruneSection

SIZES = [40, 50, 60, 80, 100, 120, 150, 180, 230, 300, 380]
SPEC = choose_shape(TEACHER, 32768, PruneSection(layers=1, ffn=32))


def shape(millions: int) -> tuple[int, int]:
    """(layers, parameters) of the shape a recipe of that size gets."""
    layers = sensible_layers(TEACHER, SPEC, millions * 10**6)
    spec = choose_shape(TEACHER, 32768, PruneSection(layers=layers, ffn=None, parameters=millions * 10**6))
    return layers, count_parameters(TEACHER, spec)


def test_every_size_is_met_within_two_percent() -> None:
    for size in SIZES:
        assert shape(size)[1] == pytest.approx(size * 10**6, rel=0.02)


def test_larger_is_never_shallower_and_large_ones_keep_all() -> None:
    layers = [shape(size)[0] for size in SIZES]
    assert layers == sorted(layers)
    assert layers[0] < layers[5] < layers[-1] == 24
    half = count_parameters(TEACHER, replace(SPEC, layers=24, ffn=4864)) / 2 + 32768 * 896 / 2
    assert sensible_layers(TEACHER, SPEC, round(half)) == 24 > sensible_layers(TEACHER, SPEC, round(0.9 * half))


def test_attention_never_takes_more_than_half() -> None:
    for size in SIZES:
        layers = shape(size)[0]
        attention = count_parameters(TEACHER, replace(SPEC, layers=layers, ffn=0)) - 32768 * 896
        assert layers == 1 or attention <= 0.51 * (size * 10**6 - 32768 * 896)


def test_what_nothing_can_meet_still_gets_a_number() -> None:
    """`choose_shape` then says what is possible."""
    assert sensible_layers(TEACHER, SPEC, 1) == 1
    assert sensible_layers(TEACHER, SPEC, 10**12) == 24


def test_what_is_cut_is_counted_without_the_embeddings() -> None:
    def cut(**section: int | None) -> float:
        wanted = PruneSection.model_validate({"layers": 24, "parameters": None, **section})
        return cut_share(TEACHER, choose_shape(TEACHER, 32768, wanted))

    assert cut() == 0 and cut(layers=12) == pytest.approx(0.5)
    assert cut(parameters=150_000_000) == pytest.approx((387 - 150) / (387 - 29), rel=0.01)
    assert cut(hidden=768) > 0.1
