"""Measures and their intervals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from potstill.evaluate.scorecard import (
    Scorecard,
    bootstrap,
    fact,
    mean_of,
    proportion,
    ratio,
    read_measures,
    repeated,
    student_t,
    unmeasured,
)


def test_a_constant_has_no_width() -> None:
    found = bootstrap(mean_of([3.0] * 20), ratio, "ms", 200, seed=0)
    assert (found.value, found.low, found.high, found.n, found.unit) == (3.0, 3.0, 3.0, 20, "ms")


def test_one_sample_has_no_interval() -> None:
    found = bootstrap(mean_of([3.0]), ratio, "ms", 200, seed=0)
    assert (found.value, found.low, found.high, found.n) == (3.0, None, None, 1)
    assert (fact(85.3, "MB").low, fact(85.3, "MB").n) == (None, 1)


def test_the_seed_decides_the_interval() -> None:
    rows = mean_of(np.random.default_rng(0).normal(size=30).tolist())
    assert bootstrap(rows, ratio, "x", 300, seed=1) == bootstrap(rows, ratio, "x", 300, seed=1)
    assert bootstrap(rows, ratio, "x", 300, seed=1) != bootstrap(rows, ratio, "x", 300, seed=2)


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, size=400)
    found = bootstrap(mean_of(values.tolist()), ratio, "x", 4000, seed=0)
    assert found.value == pytest.approx(values.mean())
    assert found.low is not None and found.high is not None
    error = values.std(ddof=1) / np.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("rounds", [2, 3, 10, 40])
def test_few_rounds_hold_the_truth_as_often_as_they_say(rounds: int) -> None:
    random = np.random.default_rng(0)
    found = [repeated(random.normal(100.0, 5.0, rounds).tolist(), "ms") for _ in range(1000)]
    held = sum(one.low is not None and one.high is not None and one.low <= 100 <= one.high for one in found)
    assert 930 <= held <= 975 and found[0].n == rounds
    assert (repeated([3.0], "ms").low, repeated([3.0], "ms").value) == (None, 3.0)
    assert repeated([0.1, 9.0], "ms").low == 0.0


@pytest.mark.parametrize("rows", [2, 3, 5, 8, 40])
def test_few_rows_hold_the_truth_as_often_as_they_say(rows: int) -> None:
    random = np.random.default_rng(0)
    samples = [mean_of(random.normal(100.0, 5.0, rows).tolist()) for _ in range(500)]
    found = [bootstrap(one, ratio, "ms", 400, seed=0) for one in samples]
    held = sum(one.low is not None and one.high is not None and one.low <= 100 <= one.high for one in found)
    assert 455 <= held <= 490


def test_no_interval_leaves_what_the_unit_can_be() -> None:
    assert bootstrap(mean_of([5.0, 4.0]), ratio, "1–5", 100, seed=0).high == 5.0
    wide = bootstrap(mean_of([0.1, 0.9]), ratio, "share", 100, seed=0)
    assert (wide.low, wide.high) == (0.0, 1.0)
    below = bootstrap(mean_of([-0.2, -0.1, -0.15]), ratio, "score", 100, seed=0)
    assert below.low is not None and below.value is not None and below.low <= below.value
    broken = bootstrap(mean_of([math.nan, 0.5]), ratio, "share", 100, seed=0)
    assert (broken.low, broken.high) == (None, None)


def test_student_s_t_goes_on_behind_the_table() -> None:
    assert student_t(1) == 12.706
    assert student_t(16) == pytest.approx(2.1199, abs=1e-3)
    assert student_t(39) == pytest.approx(2.0227, abs=2e-4)


def test_long_answers_count_for_more() -> None:
    assert bootstrap([[10.0, 10.0], [0.0, 30.0]], ratio, "nats", 100, seed=0).value == 0.25


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    card = Scorecard()
    card.add("size.file_mb", "student", fact(85.3, "MB"))
    card.add("naturalness.mean", "student", unmeasured("1–5", "not rated"))
    card.write(tmp_path / "card.json")
    assert read_measures(tmp_path / "card.json") == card.measures
    written = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    assert set(written["size.file_mb"]["student"]) == {"value", "n", "low", "high", "unit"}
    assert written["naturalness.mean"]["student"]["note"] == "not rated"


def test_nothing_of_fifty_is_not_certainly_nothing() -> None:
    none, all_of_them, some = proportion(0, 50), proportion(50, 50), proportion(20, 50)
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.0714, abs=1e-3)
    assert (all_of_them.high, all_of_them.low) == (1.0, pytest.approx(1 - 0.0714, abs=1e-3))
    assert (some.low, some.high) == (pytest.approx(0.276, abs=1e-3), pytest.approx(0.538, abs=1e-3))
