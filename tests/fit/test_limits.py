"""Limits and how they are missed."""

from __future__ import annotations

import pytest

from potstill.fit.limits import Limits, explain, told
from potstill.problem import Problem

REACHED = {"decode_tok_s": 48.0, "first_token_ms": 150.0, "size_mb": 110.0, "memory_mb": 200.0}


def test_a_limit_that_is_just_met_is_met() -> None:
    assert not Limits(decode_tok_s=48, first_token_ms=150, size_mb=110, memory_mb=200).misses(REACHED)


def test_each_direction_counts() -> None:
    missed = Limits(decode_tok_s=60, first_token_ms=200, size_mb=100).misses(REACHED)
    assert missed == pytest.approx({"decode_tok_s": 0.2, "size_mb": 0.1})
    assert told(missed) == "--decode by 20%, --size by 10%" and told({}) == "met"


def test_who_is_excluded_by_what() -> None:
    others = [REACHED, {**REACHED, "decode_tok_s": 50.0, "size_mb": 90.0}]
    lines = explain(Limits(decode_tok_s=100, size_mb=100, memory_mb=300), others)
    assert lines == [
        "--decode 100 tokens/s excludes 2 of 2; the closest reaches 50 tokens/s, 50% off",
        "--size 100 MB excludes 1 of 2; the closest reaches 90 MB",
    ]


def test_nothing_asked_is_a_mistake() -> None:
    with pytest.raises(Problem, match=r"Give at least one of --decode, --first-token, --size, --memory"):
        Limits()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_limit_that_is_no_amount_is_a_mistake(value: float) -> None:
    with pytest.raises(Problem, match=r"--decode = .* Give a number above 0"):
        Limits(decode_tok_s=value)
