"""The whole scorecard in one picture: the student against the teacher, one line a metric, better always to the right.

In:  the scorecard.
Out: a `Glance`: rows with a lane for each model, places in percent of the row's axis.
Does not know: how anything was measured, HTML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from potstill.report.metrics import Metric, metric_named
from potstill.report.names import FIRST, in_order, is_quantised, mark_of, model_named
from potstill.report.scorecard import Comparison, Mark, Reading, Scorecard, axis_top, compare, marks, readings
from potstill.report.words import NOT_MEASURED, Words, quantity, tidy, unit_words

AXES: tuple[tuple[Words, tuple[str, ...]], ...] = (
    (
        Words("Fast and small", "快而小"),
        ("speed.first_token_ms", "speed.decode_tok_s", "stream.gap_p95_ms", "memory.peak_mb", "size.file_mb"),
    ),
    (Words("True to the teacher", "接近教师"), ("fidelity.top1",)),
    (
        Words("Right", "正确"),
        ("code.runs", "code.passes", "commonsense.error", "commonsense.error_written"),
    ),
    (
        Words("Steady and pleasant", "稳定自然"),
        ("stability.similarity", "stability.ended", "answers.broken", "naturalness.mean"),
    ),
)
"""What is shown, of what was measured; the other metrics have their tables."""
PAIR = ("teacher", "student")
CHANCE = "chance"


@dataclass(frozen=True)
class Lane:
    """One model's line in a row."""

    kind: str
    mark: Mark


@dataclass(frozen=True)
class Line:
    """One metric.

    Args:
        left, right: what the ends of its axis stand for, right being the better one. floor: where guessing stands,
        percent. teacher, student: their values in words.
    """

    metric: Metric
    left: Words
    right: Words
    lanes: tuple[Lane, ...]
    floor: float | None
    teacher: Words
    student: Words
    comparison: Comparison | None


@dataclass(frozen=True)
class Part:
    """Lines that belong together."""

    title: Words
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Glance:
    """The picture; `models` are those that have a lane, (name, kind of mark); `chance` says that a floor is drawn."""

    models: tuple[tuple[Words, str], ...]
    chance: bool
    parts: tuple[Part, ...]


def glance(scorecard: Scorecard) -> Glance | None:
    """The picture of whatever main metrics were measured; None where there are none."""
    known = {key: _comparable(readings(scorecard, metric_named(key))) for _, keys in AXES for key in keys}
    models = in_order(list(dict.fromkeys(model for found in known.values() for model in found)))
    lanes = [*(name for name in PAIR if name in models), *(one for one in models if one not in (*PAIR, CHANCE))]
    parts = []
    for title, keys in AXES:
        lines = tuple(_line(metric_named(key), known[key], lanes) for key in keys if known[key])
        if lines:
            parts.append(Part(title, lines))
    named = tuple((model_named(name), mark_of(name)) for name in lanes)
    return Glance(named, CHANCE in models, tuple(parts)) if parts else None


def _comparable(found: Mapping[str, Reading]) -> dict[str, Reading]:
    """Without the student's stages and other files: those have pictures of their own."""
    return {
        model: one for model, one in found.items() if model == "teacher" or not (model in FIRST or is_quantised(model))
    }


def _line(metric: Metric, found: Mapping[str, Reading], lanes: list[str]) -> Line:
    flipped = metric.better == "lower"
    placed = {mark.model: _flip(mark) if flipped else mark for mark in marks(metric, found)}
    unit = next(iter(found.values())).unit
    ends = [tidy(one, unit) + unit_words(unit) for one in (metric.start, axis_top(metric, found.values()))]
    left, right = reversed(ends) if flipped else ends
    return Line(
        metric,
        left,
        right,
        tuple(Lane(mark_of(model), placed[model]) for model in lanes if model in placed),
        placed[CHANCE].at if CHANCE in placed else None,
        _value(metric, found.get("teacher")),
        _value(metric, found.get("student")),
        compare(metric, found.get("teacher"), found.get("student")),
    )


def _flip(mark: Mark) -> Mark:
    at, low, high = (round(100 - place, 2) for place in (mark.at, mark.high, mark.low))
    return replace(mark, at=at, low=low, high=high)


def _value(metric: Metric, reading: Reading | None) -> Words:
    if reading is None:
        return NOT_MEASURED
    return metric.absent if reading.value is None else quantity(reading.value, reading.unit)
