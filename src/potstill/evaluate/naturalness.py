"""Naturalness: what people think of the answers, rated blind.

In:  the run folder's ratings of the student as it ships, which a page fills; here they are only read.
Out: rows naturalness.mean and naturalness.alpha of a scorecard, without a value where nobody rated.
Does not know: how ratings are collected, who a rater is, what the models said.

One rating is one person's score (1 unnatural … 5 natural) for one model's answer in one turn of one conversation.
The rater does not know which model wrote it; the table does. Who rates an answer again replaces the earlier score.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from potstill.evaluate.scorecard import Floats, Measure, Scorecard, bootstrap, ratio, unmeasured
from potstill.models.identity import sha256_of
from potstill.problem import Problem

TABLE = """
CREATE TABLE IF NOT EXISTS ratings(
    id INTEGER PRIMARY KEY,
    conversation TEXT NOT NULL,
    turn INTEGER NOT NULL,
    rater TEXT NOT NULL,
    model TEXT NOT NULL,
    score INTEGER NOT NULL CHECK (score BETWEEN 1 AND 5),
    at TEXT NOT NULL
)
"""
"""The table. turn counts from 1; rater is a made-up name that stays the same for a person; model is a name of the
scorecard; at is UTC in ISO 8601."""
SCORES = (1, 2, 3, 4, 5)
NOT_RATED = "not rated"
REMEDY = "Restore it from a copy, or move it out of the run folder: naturalness is then shown as not rated."


@dataclass(frozen=True)
class Rating:
    """One row of the table, whose columns bear these names."""

    conversation: str
    turn: int
    rater: str
    model: str
    score: int
    at: str


def ratings_file(folder: Path, student: Path) -> Path:
    """Where ratings of this very student lie, by the hash of its GGUF: those of an earlier one tell nothing of it."""
    return folder / f"ratings-{sha256_of(student)[:12]}.sqlite"


def read_ratings(path: Path) -> list[Rating]:
    """All ratings in the order they were given; none where there is no file.

    Raises: Problem where the file is not SQLite, lacks the table or a column, or holds a row that is no rating.
    """
    if not path.exists():
        return []
    # Read-only: SQLite would otherwise create what is missing, and a page may be writing at this moment.
    source = f"{path.resolve().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(source, uri=True)) as base:
            rows = base.execute("SELECT id, conversation, turn, rater, model, score, at FROM ratings ORDER BY id")
            return [_rating(path, *row) for row in rows]
    except sqlite3.Error as error:
        raise Problem(f"{path}: ratings cannot be read ({error})", REMEDY) from None


def krippendorff_alpha(units: Sequence[Mapping[str, int]]) -> float | None:
    """Krippendorff's alpha for ordinal scores: 1 is perfect agreement, 0 what chance would give.

    Args:
        units: what was rated, each as rater → score; a unit with fewer than two scores says nothing and is passed over.

    Returns: at most 1; None where it is undefined: no unit with two scores, or all such scores are the same.
    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability". Written by its definition, because the
    package `krippendorff` on PyPI is under the GPL, which does not go with our licence.
    """
    scores = sorted({score for unit in units for score in unit.values()})
    alpha = float(_alpha(_coincidences(units, scores)))
    return None if np.isnan(alpha) else alpha


def add_naturalness(
    card: Scorecard, models: Sequence[str], ratings: Sequence[Rating], resamples: int, seed: int
) -> None:
    """Rows naturalness.mean (1–5) and naturalness.alpha, without a value ("not rated") for models that nobody rated.

    The mean's n counts rated conversations and its interval resamples them whole, however many people rated each:
    scores within a conversation are not independent. That one person may have rated several is not accounted for.
    Alpha's n counts turns with two raters or more, its interval resamples conversations too.

    Ratings of other models are passed over.
    """
    last = {(one.model, one.conversation, one.turn, one.rater): one for one in ratings}
    for model in models:
        talks: dict[str, dict[int, dict[str, int]]] = {}
        for one in last.values():
            if one.model == model:
                talks.setdefault(one.conversation, {}).setdefault(one.turn, {})[one.rater] = one.score
        turns = [list(talk.values()) for talk in talks.values()]
        card.add("naturalness.mean", model, _mean(turns, resamples, seed))
        card.add("naturalness.alpha", model, _agreement(turns, resamples, seed))


def _mean(talks: Sequence[Sequence[Mapping[str, int]]], resamples: int, seed: int) -> Measure:
    if not talks:
        return unmeasured("1–5", NOT_RATED)
    scores = [[score for turn in talk for score in turn.values()] for talk in talks]
    return bootstrap([[float(sum(talk)), float(len(talk))] for talk in scores], ratio, "1–5", resamples, seed)


def _agreement(talks: Sequence[Sequence[Mapping[str, int]]], resamples: int, seed: int) -> Measure:
    compared = [[turn for turn in talk if len(turn) > 1] for talk in talks]
    tables = [_coincidences(talk, SCORES).ravel().tolist() for talk in compared if talk]
    n = sum(len(talk) for talk in compared)
    if not tables:
        return unmeasured("alpha", "no turn was rated by two people" if talks else NOT_RATED)
    if np.isnan(_alpha_of_sums(np.sum(tables, axis=0))):
        return Measure(None, n, None, None, "alpha", "all scores are the same, which leaves nothing to agree on")

    def alpha(sums: Floats) -> Floats:
        # Draws in which all scores are the same show no agreement beyond chance.
        return np.nan_to_num(_alpha_of_sums(sums), nan=0.0)

    found = bootstrap(tables, alpha, "alpha", resamples, seed)
    return Measure(found.value, n, found.low, found.high, "alpha")


def _coincidences(units: Iterable[Mapping[str, int]], scores: Sequence[int]) -> Floats:
    """[V, V] how often two raters of a unit gave a pair of scores, both ways round; sums to the number of scores."""
    table = np.zeros((len(scores), len(scores)))
    for unit in units:
        if len(unit) > 1:
            given = Counter(unit.values())
            counts = np.array([given[score] for score in scores], dtype=np.float64)
            table += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    return table


def _alpha(table: Floats) -> Floats:
    """Ordinal alpha [...] of coincidence tables [..., V, V] whose scores ascend; NaN where it is undefined."""
    margins = table.sum(axis=-1)
    # The ordinal distance of two scores: how many scores lie between them, each end counted by half.
    ranks = np.cumsum(margins, axis=-1) - margins / 2
    distance = (ranks[..., :, None] - ranks[..., None, :]) ** 2
    observed = (table * distance).sum(axis=(-2, -1))
    expected = (margins[..., :, None] * margins[..., None, :] * distance).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - (margins.sum(axis=-1) - 1) * observed / expected)


def _alpha_of_sums(sums: Floats) -> Floats:
    return _alpha(sums.reshape(*sums.shape[:-1], len(SCORES), len(SCORES)))


def _rating(path: Path, key: object, *cells: Any) -> Rating:
    """SQLite lets any column hold any type, so a table made elsewhere is checked row by row."""
    conversation, turn, rater, model, score, at = cells
    texts = all(isinstance(text, str) for text in (conversation, rater, model, at))
    if not texts or not isinstance(turn, int) or not isinstance(score, int) or score not in SCORES:
        raise Problem(f"{path}: row {key} of `ratings` is no rating from 1 to 5", REMEDY)
    return Rating(conversation, turn, rater, model, score, at)
