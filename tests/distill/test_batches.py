"""Batches by length: every answer once an epoch, a fixed number a batch where the recipe asks for it."""

from __future__ import annotations

import pytest

from potstill.distill.batches import LengthBatches

LENGTHS = [5, 30, 7, 12, 28, 9, 40, 6, 11, 33]


@pytest.mark.parametrize("answers", [None, 4])
def test_an_epoch_holds_every_answer_once_in_an_order_of_its_own(answers: int | None) -> None:
    batches = LengthBatches(LENGTHS, 64, 3, answers)
    first = list(batches)
    assert sorted(number for batch in first for number in batch) == list(range(len(LENGTHS)))
    assert list(batches) == first and len(first) == len(batches)
    orders = []
    for epoch in range(8):
        batches.set_epoch(epoch)
        orders.append(list(batches))
        assert sorted(orders[-1]) == sorted(first)
    assert len({str(order) for order in orders}) > 1


@pytest.mark.parametrize("answers", [1, 3, 4, 10, 11])
def test_a_fixed_number_of_answers(answers: int) -> None:
    batches = LengthBatches(LENGTHS, 1, 0, answers).batches
    assert {len(batch) for batch in batches[:-1]} <= {answers} and 1 <= len(batches[-1]) <= answers
    assert [LENGTHS[number] for batch in batches for number in batch] == sorted(LENGTHS, reverse=True)


def test_otherwise_tokens_are_what_counts() -> None:
    for batch in LengthBatches(LENGTHS, 64, 0).batches:
        assert len(batch) * max(LENGTHS[number] for number in batch) <= 64
