"""Examples whose teacher has something to say at some answer tokens only."""

from __future__ import annotations

import numpy as np
import pytest

from potstill.models.examples import Example, evenly
from potstill.models.positions import predicted, predicting


def test_all_answer_tokens_teach_unless_places_say_which() -> None:
    ids = np.arange(10, 18)
    whole, some = Example("a", "c", ids, 3), Example("a", "c", ids, 3, places=np.array([0, 3]))
    assert (whole.rows, whole.predicting, whole.predicted) == (5, slice(2, 7), slice(3, 8))
    assert (some.rows, some.predicting.tolist(), some.predicted.tolist()) == (2, [2, 5], [3, 6])
    # Whichever way they are given, a token's predictor stands just before it.
    assert (some.predicted - some.predicting).tolist() == [1, 1]
    assert predicting(3, 8, np.arange(5)).tolist() == list(range(2, 7))
    assert predicted(3, 8, np.arange(5)).tolist() == list(range(3, 8))


def test_an_answer_without_a_place_before_it_is_refused() -> None:
    with pytest.raises(ValueError, match="no position"):
        predicting(0, 6, np.array([0]))


def test_some_come_from_all_over_the_list() -> None:
    examples = [Example(str(number), "c", np.arange(12), 2) for number in range(9)]
    assert [example.id for example in evenly(examples, 30)] == ["0", "3", "6"]
    assert evenly(examples, 1000) == examples
    assert [example.id for example in evenly(examples, 1)] == ["0"]
    assert evenly([], 5) == []
