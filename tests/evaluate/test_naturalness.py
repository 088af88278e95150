"""Ratings by people: read with suspicion, averaged by conversation, agreement by Krippendorff's definition."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.evaluate.naturalness import TABLE, Rating, add_naturalness, krippendorff_alpha, read_ratings
from potstill.evaluate.scorecard import Measure, Scorecard
from potstill.problem import Problem

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability" (repository.upenn.edu/asc_papers/43), part D: 4
# observers, 12 units, 41 scores of which one stands alone. He gives alpha as 0.743 nominal, 0.815 ordinal, 0.849
# interval, 0.797 ratio.
OBSERVERS = {
    "A": "1 2 3 3 2 1 4 1 2 . . .",
    "B": "1 2 3 3 2 2 4 1 2 5 . 3",
    "C": ". 3 3 3 2 3 4 2 2 5 1 .",
    "D": "1 2 3 3 2 4 4 1 2 5 1 .",
}


def published() -> list[dict[str, int]]:
    columns = zip(*(scores.split() for scores in OBSERVERS.values()), strict=True)
    return [
        {name: int(score) for name, score in zip(OBSERVERS, column, strict=True) if score != "."} for column in columns
    ]


def by_pairs(units: Sequence[dict[str, int]]) -> float:
    """Ordinal alpha once more, pair by pair, without a matrix."""
    paired = [list(unit.values()) for unit in units if len(unit) > 1]
    everything = [score for unit in paired for score in unit]

    def apart(one: int, other: int) -> float:
        low, high = min(one, other), max(one, other)
        between = sum(low <= score <= high for score in everything)
        return (between - (everything.count(low) + everything.count(high)) / 2) ** 2 if low != high else 0.0

    n = len(everything)
    observed = sum(apart(a, b) / (len(unit) - 1) for unit in paired for a, b in permutations(unit, 2)) / n
    expected = sum(apart(a, b) for a, b in permutations(everything, 2)) / (n * (n - 1))
    return 1 - observed / expected


# --- Krippendorff's alpha


def test_the_published_example() -> None:
    assert krippendorff_alpha(published()) == pytest.approx(0.815, abs=5e-4)
    assert by_pairs(published()) == pytest.approx(0.815, abs=5e-4)


def test_perfect_agreement_is_one() -> None:
    assert krippendorff_alpha([{"a": score, "b": score, "c": score} for score in (1, 2, 5, 5)]) == 1.0


def test_by_hand() -> None:
    # Two scores that differ: what is observed is what chance gives.
    assert krippendorff_alpha([{"a": 1, "b": 2}]) == 0.0
    # Margins 2 and 2, so the distance is 2² = 4; observed (2 + 2) · 4 = 16, expected 2 · 2 · 2 · 4 = 32.
    assert krippendorff_alpha([{"a": 1, "b": 5}, {"a": 5, "b": 1}]) == pytest.approx(1 - 3 * 16 / 32)


def test_where_alpha_is_undefined() -> None:
    assert krippendorff_alpha([]) is None
    assert krippendorff_alpha([{}]) is None
    assert krippendorff_alpha([{"a": 3}, {"b": 4}]) is None
    assert krippendorff_alpha([{"a": 3, "b": 3}, {"a": 3, "b": 3}]) is None


def test_only_the_order_of_scores_counts_and_lone_scores_do_not() -> None:
    stretched = [{name: score**3 - 40 for name, score in unit.items()} for unit in published()]
    assert krippendorff_alpha(stretched) == pytest.approx(krippendorff_alpha(published()))
    assert krippendorff_alpha([*published(), {"A": 5}, {"B": 99}]) == krippendorff_alpha(published())


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5)), max_size=8))
def test_it_is_the_sum_over_pairs_and_at_most_one(units: list[dict[str, int]]) -> None:
    alpha = krippendorff_alpha(units)
    paired = {score for unit in units if len(unit) > 1 for score in unit.values()}
    assert (alpha is None) == (len(paired) < 2)
    if alpha is not None:
        assert alpha == pytest.approx(by_pairs(units)) and alpha <= 1.0


# --- the scorecard's rows


def rating(conversation: str, turn: int, rater: str, score: int, model: str = "student") -> Rating:
    return Rating(conversation, turn, rater, model, score, "2026-11-24T12:00:00Z")


def rows(ratings: Sequence[Rating], *models: str) -> dict[str, dict[str, Measure]]:
    card = Scorecard()
    add_naturalness(card, models or ("student",), ratings, 500, seed=0)
    return card.measures


def test_nobody_rated() -> None:
    found = rows([], "teacher", "student")
    for model in ("teacher", "student"):
        assert found["naturalness.mean"][model] == Measure(None, 0, None, None, "1–5", "not rated")
        assert found["naturalness.alpha"][model] == Measure(None, 0, None, None, "alpha", "not rated")


def test_the_mean_is_over_ratings_and_its_interval_over_conversations() -> None:
    ratings = [rating("one", 1, "a", 5), rating("one", 2, "a", 4), rating("one", 3, "a", 4), rating("two", 1, "b", 1)]
    mean = rows(ratings)["naturalness.mean"]["student"]
    assert (mean.value, mean.n, mean.unit) == (3.5, 2, "1–5")
    # Two conversations are drawn: one twice (13/3), the other twice (1), or both; and two tell next to nothing.
    assert (mean.low, mean.high) == (1.0, 5.0)


def test_more_ratings_of_one_conversation_are_not_more_conversations() -> None:
    ratings = [rating("one", turn, rater, 3 + turn % 2) for turn in range(10) for rater in "abc"]
    mean = rows(ratings)["naturalness.mean"]["student"]
    assert (mean.value, mean.n, mean.low, mean.high) == (3.5, 1, None, None)


def test_each_model_has_its_own_ratings() -> None:
    ratings = [rating("one", 1, "a", 2, "student"), rating("one", 1, "a", 5, "teacher"), rating("one", 1, "a", 1, "x")]
    found = rows(ratings, "teacher", "student", "cut")["naturalness.mean"]
    assert {name: measure.value for name, measure in found.items()} == {"teacher": 5.0, "student": 2.0, "cut": None}


def test_who_rates_again_has_changed_their_mind() -> None:
    found = rows([rating("one", 1, "a", 1), rating("one", 1, "a", 4)])
    assert found["naturalness.mean"]["student"].value == 4.0
    assert found["naturalness.alpha"]["student"].value is None


def test_alpha_compares_raters_of_the_same_turn() -> None:
    ratings = [
        rating(f"talk {number % 4}", number, rater, score)
        for number, unit in enumerate(published())
        for rater, score in unit.items()
    ]
    alpha = rows(ratings)["naturalness.alpha"]["student"]
    assert (alpha.n, alpha.unit) == (11, "alpha") and alpha.value == pytest.approx(0.815, abs=5e-4)
    assert alpha.low is not None and alpha.high is not None and alpha.value is not None
    assert alpha.low < alpha.value < alpha.high <= 1.0


def test_alpha_of_the_same_turn_number_in_other_conversations_is_none() -> None:
    alpha = rows([rating("one", 1, "a", 1), rating("two", 1, "b", 4)])["naturalness.alpha"]["student"]
    assert (alpha.value, alpha.n, alpha.note) == (None, 0, "no turn was rated by two people")


def test_alpha_without_variation_is_undefined_but_counted() -> None:
    ratings = [rating("one", turn, rater, 4) for turn in (1, 2) for rater in "ab"]
    alpha = rows(ratings)["naturalness.alpha"]["student"]
    assert (alpha.value, alpha.n, alpha.low) == (None, 2, None) and alpha.note.startswith("all scores are the same")


def test_draws_without_variation_do_not_spoil_the_interval() -> None:
    ratings = [rating(talk, 1, rater, score) for talk, score in (("one", 2), ("two", 5)) for rater in "ab"]
    alpha = rows(ratings)["naturalness.alpha"]["student"]
    assert (alpha.value, alpha.low, alpha.high) == (1.0, -1.0, 1.0)


def test_the_seed_decides() -> None:
    drawn = np.random.default_rng(0).integers(1, 6, size=(12, 3))
    ratings = [rating(str(talk), turn, "a", int(drawn[talk, turn])) for talk in range(12) for turn in range(3)]
    assert rows(ratings) == rows(ratings)


# --- the file


def table(path: Path, statement: str = TABLE) -> sqlite3.Connection:
    base = sqlite3.connect(path)
    base.execute(statement)
    return base


INSERT = "INSERT INTO ratings(conversation, turn, rater, model, score, at) VALUES (?, ?, ?, ?, ?, ?)"
LOOSE = "CREATE TABLE ratings(id INTEGER PRIMARY KEY, conversation, turn, rater, model, score, at)"


def test_what_was_written_is_read_and_the_file_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "评分 50% #1?.sqlite"
    with closing(table(path)) as base:
        base.execute(INSERT, ("one", 1, "a", "student", 4, "2026-11-24T12:00:00Z"))
        base.execute(INSERT, ("one", 2, "a", "teacher", 5, "2026-11-24T12:00:01Z"))
        base.commit()
    before = path.read_bytes()
    assert read_ratings(path) == [
        Rating("one", 1, "a", "student", 4, "2026-11-24T12:00:00Z"),
        Rating("one", 2, "a", "teacher", 5, "2026-11-24T12:00:01Z"),
    ]
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_no_file_is_no_ratings_and_makes_none(tmp_path: Path) -> None:
    assert read_ratings(tmp_path / "ratings.sqlite") == []
    assert list(tmp_path.iterdir()) == []


def test_an_empty_table_is_no_ratings(tmp_path: Path) -> None:
    table(tmp_path / "ratings.sqlite").close()
    assert read_ratings(tmp_path / "ratings.sqlite") == []


@pytest.mark.parametrize("score", [0, 6, -1, None])
def test_the_table_itself_refuses_other_scores(tmp_path: Path, score: int | None) -> None:
    with closing(table(tmp_path / "ratings.sqlite")) as base, pytest.raises(sqlite3.IntegrityError):
        base.execute(INSERT, ("one", 1, "a", "student", score, "now"))


@pytest.mark.parametrize(
    "row",
    [
        ("one", 1, "a", "student", 6, "now"),
        ("one", 1, "a", "student", 3.5, "now"),
        ("one", 1, "a", "student", "4", "now"),
        ("one", 1, "a", "student", None, "now"),
        ("one", "first", "a", "student", 4, "now"),
        (None, 1, "a", "student", 4, "now"),
        ("one", 1, 7, "student", 4, "now"),
        ("one", 1, "a", b"student", 4, "now"),
        ("one", 1, "a", "student", 4, None),
    ],
)
def test_a_row_that_is_no_rating_is_named(tmp_path: Path, row: tuple[object, ...]) -> None:
    path = tmp_path / "ratings.sqlite"
    with closing(table(path, LOOSE)) as base:
        base.execute(INSERT, ("one", 1, "a", "student", 4, "now"))
        base.execute(INSERT, row)
        base.commit()
    with pytest.raises(Problem, match="row 2 of `ratings` is no rating from 1 to 5") as caught:
        read_ratings(path)
    assert str(path) in caught.value.what and "not rated" in caught.value.remedy


def test_a_file_that_holds_no_ratings_is_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "ratings.sqlite"
    table(path, "CREATE TABLE other(id INTEGER PRIMARY KEY)").close()
    for content, said in ((None, "no such table"), (b"", "no such table"), (b"score\n5\n" * 200, "not a database")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(Problem, match=said) as caught:
            read_ratings(path)
        assert str(path) in caught.value.what and "move it out of the run folder" in caught.value.remedy


def test_a_missing_column_and_a_folder_are_told_in_words(tmp_path: Path) -> None:
    table(tmp_path / "old.sqlite", "CREATE TABLE ratings(id INTEGER PRIMARY KEY, score INTEGER)").close()
    with pytest.raises(Problem, match="no such column: conversation"):
        read_ratings(tmp_path / "old.sqlite")
    with pytest.raises(Problem, match="ratings cannot be read"):
        read_ratings(tmp_path)
