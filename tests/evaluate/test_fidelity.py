"""Fidelity: sums become means, by category and stretch; a quick look takes answers of every category."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from potstill.evaluate.fidelity import add_fidelity, spread_over
from potstill.evaluate.scorecard import Scorecard
from potstill.fidelity import NOTHING, Fidelity

NATS = float(np.log(4))
ANSWERS = [
    [Fidelity(10, 5.0, 8, 9, 10 * NATS), NOTHING, NOTHING],
    [Fidelity(16, 8.0, 8, 12, 16 * NATS), Fidelity(14, 7.0, 4, 9, 14 * NATS), NOTHING],
]


@pytest.fixture
def card() -> Scorecard:
    made = Scorecard()
    add_fidelity(made, "student", ANSWERS, ["code", "office"], 100, seed=0)
    return made


def values(card: Scorecard, suffix: str) -> dict[str, Any]:
    names = ("kl", "top1", "top5", "perplexity")
    return {name: card.measures[f"fidelity.{name}{suffix}"]["student"].value for name in names}


def test_sums_become_means(card: Scorecard) -> None:
    assert values(card, "") == pytest.approx({"kl": 0.5, "top1": 0.5, "top5": 0.75, "perplexity": 4.0})
    kl = card.measures["fidelity.kl"]["student"]
    assert (kl.n, kl.low, kl.high) == (2, pytest.approx(0.5), pytest.approx(0.5))


def test_each_category_is_measured_alone(card: Scorecard) -> None:
    assert values(card, ".code")["top1"] == pytest.approx(0.8)
    assert values(card, ".office")["top1"] == pytest.approx(0.4)
    assert card.measures["fidelity.kl.code"]["student"].n == 1


def test_a_stretch_counts_the_answers_that_reach_it(card: Scorecard) -> None:
    assert values(card, ".tokens_1_16")["top1"] == pytest.approx(16 / 26)
    assert values(card, ".tokens_17_64")["top1"] == pytest.approx(4 / 14)
    assert card.measures["fidelity.kl.tokens_17_64"]["student"].n == 1
    assert "fidelity.kl.tokens_65_on" not in card.measures


class Shelf:
    """What `spread_over` asks of a store."""

    def __init__(self, categories: str) -> None:
        self.examples = [SimpleNamespace(category=category) for category in categories]

    def __len__(self) -> int:
        return len(self.examples)


@pytest.mark.parametrize(("most", "count"), [(None, 12), (100, 12), (3, 3), (1, 1)])
def test_a_few_answers_are_spread_over_the_categories(most: int | None, count: int) -> None:
    shelf: Any = Shelf("abcabcaabbcc")
    chosen = spread_over(shelf, most)
    assert len(chosen) == len(set(chosen)) == count
    assert chosen == sorted(chosen)
    if count >= 3:
        assert {shelf.examples[index].category for index in chosen} == set("abc")


def test_nothing_is_chosen_from_nothing() -> None:
    empty: Any = Shelf("")
    assert spread_over(empty, None) == spread_over(empty, 3) == []
