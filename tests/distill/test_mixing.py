"""Batches of given answers among the teacher's: the share, and that nothing is left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from potstill.distill.mixing import MixedBatches
from potstill.models.examples import Example
from potstill.problem import Problem


def examples(given: int, taught: int) -> list[Example]:
    marks = np.random.default_rng(0).permutation([True] * given + [False] * taught)
    return [Example(f"e{i}", "test", np.zeros(4, dtype=np.int64), 2, given=bool(mark)) for i, mark in enumerate(marks)]


def pairs(lengths: Sequence[int]) -> list[list[int]]:
    return [list(range(begin, min(begin + 2, len(lengths)))) for begin in range(0, len(lengths), 2)]


@pytest.mark.parametrize(("given", "taught"), [(10, 90), (50, 50), (90, 10)])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_every_batch_is_of_one_kind_in_the_share_asked_and_every_answer_comes(
    given: int, taught: int, share: float
) -> None:
    known = examples(given, taught)
    batches = MixedBatches(known, share, pairs, seed=0)
    epoch = list(batches)
    assert len(epoch) == len(batches)
    kinds = [{known[number].given for number in batch} for batch in epoch]
    assert all(len(kind) == 1 for kind in kinds)
    assert sum(kind == {True} for kind in kinds) / len(epoch) == pytest.approx(share, abs=0.02)
    assert {number for batch in epoch for number in batch} == set(range(len(known)))


def test_the_scarce_kind_comes_again_only_when_all_of_it_has_been() -> None:
    known = examples(4, 40)
    given = [tuple(batch) for batch in MixedBatches(known, 0.5, pairs, seed=0) if known[batch[0]].given]
    assert len(given) == 20
    assert all(given.count(batch) == 10 for batch in set(given))
    assert all(len(set(given[begin : begin + 2])) == 2 for begin in range(0, 20, 2))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = MixedBatches(examples(10, 20), 0.5, pairs, seed)
        batches.set_epoch(epoch)
        return list(batches)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_the_ends_of_the_scale_hold_one_kind() -> None:
    known = examples(6, 8)
    assert {number for batch in MixedBatches(known, 0.0, pairs, 0) for number in batch} == {
        number for number, one in enumerate(known) if not one.given
    }
    assert all(known[number].given for batch in MixedBatches(known, 1.0, pairs, 0) for number in batch)


@pytest.mark.parametrize(("given", "taught", "missing"), [(0, 5, "given answers"), (5, 0, "by the teacher")])
def test_a_share_of_nothing_is_a_problem(given: int, taught: int, missing: str) -> None:
    with pytest.raises(Problem, match=missing):
        MixedBatches(examples(given, taught), 0.3, pairs, 0)
