"""The scorecard, metric by metric: every value, its interval, and the student against the teacher.

In:  metric → model → {value, n, low, high, unit}; any metric, any model.
Out: `Group`s of `Row`s ready to be drawn, positions in percent of their axis.
Does not know: where the scorecard lies, stages, HTML.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from potstill.report.metrics import Metric, metric_named
from potstill.report.names import KINDS, QUANTISATION, group_named, in_order, is_quantised, kind_named, part_kind
from potstill.report.words import (
    NOT_MEASURED,
    Words,
    interval,
    is_share,
    json_number,
    number,
    rounded,
    same,
    unit_words,
)

Scorecard = Mapping[str, Mapping[str, Any]]
ROOM = 1.06
"""Axes end this far beyond the largest value."""


@dataclass(frozen=True)
class Reading:
    """One measured value with its interval; None where there is none; `note` says why there is no value."""

    value: float | None
    low: float | None
    high: float | None
    n: float | None
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Student against teacher.

    Args:
        kind: "better" or "worse" where the interval leaves no doubt, "undecided" where it does, "plain" where nobody
        knows which way is better. amount: the factor or the difference. word: what that is called. interval: the
        widest one that both models' intervals allow.
    """

    kind: Literal["better", "worse", "undecided", "plain"]
    amount: Words
    word: Words
    interval: Words | None


@dataclass(frozen=True)
class Mark:
    """Where a model stands on a metric's axis, percent; low and high are its whisker."""

    model: str
    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Cell:
    """What stands under a model: number, unit, interval, count; all None where it isn't in the scorecard."""

    model: str
    number: Words | None = None
    unit: Words | None = None
    interval: Words | None = None
    n: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One metric."""

    metric: Metric
    cells: tuple[Cell, ...]
    comparison: Comparison | None
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Group:
    """Metrics that are shown in one table, with the models any of them knows; `details` are tables below it."""

    key: str
    title: Words
    models: tuple[str, ...]
    rows: tuple[Row, ...]
    details: tuple[Group, ...] = ()

    @property
    def compares(self) -> bool:
        """Whether any row sets the student against the teacher."""
        return any(row.comparison for row in self.rows)


def read_cell(entry: Any, metric: Metric) -> Reading | None:
    """A `Reading` from the scorecard's JSON; None where there is nothing to show."""
    if entry is None:
        return None
    fields = entry if isinstance(entry, Mapping) else {"value": entry}
    value, low, high, n = (json_number(fields.get(name)) for name in ("value", "low", "high", "n"))
    low, high = (None if end is None or math.isnan(end) else end for end in (low, high))
    return Reading(value, low, high, n, fields.get("unit") or metric.unit, str(fields.get("note") or ""))


def groups(scorecard: Scorecard) -> list[Group]:
    """All metrics, by the part of their key before the first dot, in the scorecard's own order.

    Keys with a third part, and the student's other files, stand in the `details` of their group.
    """
    keys: dict[str, list[str]] = {}
    for key in scorecard:
        keys.setdefault(key.partition(".")[0], []).append(key)
    return [_group(name, members, scorecard) for name, members in keys.items()]


def readings(scorecard: Scorecard, metric: Metric) -> dict[str, Reading]:
    """Model → reading of one metric."""
    found = {model: read_cell(entry, metric) for model, entry in scorecard.get(metric.key, {}).items()}
    return {model: reading for model, reading in found.items() if reading is not None}


def compare(metric: Metric, teacher: Reading | None, student: Reading | None) -> Comparison | None:
    """Student against teacher: shares by their difference, all else by a factor. None where that has no answer."""
    if teacher is None or student is None or not _finite(teacher.value) or not _finite(student.value):
        return None
    if is_share(student.unit):
        return _difference(metric, teacher, student)
    return _factor(metric, teacher, student)


def position(value: float, top: float, logarithmic: bool, bottom: float = 0.0) -> float:
    """Place on an axis from `bottom` (or, logarithmic, from 1) to `top`, percent; what is beyond stands at its end."""
    if math.isnan(value):
        return 0.0
    if math.isinf(value):
        return 100.0 if value > 0 else 0.0
    share = math.log(max(value, 1.0)) / math.log(top) if logarithmic else (value - bottom) / (top - bottom)
    return round(100 * min(max(share, 0.0), 1.0), 2)


def axis_top(metric: Metric, found: Iterable[Reading]) -> float:
    """The end of a metric's axis: its own, 1 for shares, else a little above the largest value."""
    if metric.end is not None:
        return metric.end
    shown = list(found)
    if any(is_share(reading.unit) for reading in shown):
        return 1.0
    values = [one for reading in shown for one in (reading.value, reading.low, reading.high) if one is not None]
    largest = max((one for one in values if math.isfinite(one)), default=1.0)
    if metric.logarithmic:
        return float(max(largest, 1.1) ** ROOM)
    return largest * ROOM if largest > 0 else 1.0


def marks(metric: Metric, found: Mapping[str, Reading]) -> tuple[Mark, ...]:
    """Every model's place on the metric's axis, the student's last, so that it lies on top."""
    top = axis_top(metric, found.values())
    order = sorted(found, key=lambda model: model == "student")
    placed = []
    for model in order:
        reading = found[model]
        if reading.value is None or math.isnan(reading.value):
            continue
        low, high = (reading.value if end is None else end for end in (reading.low, reading.high))
        ends = (position(one, top, metric.logarithmic, metric.start) for one in (reading.value, low, high))
        placed.append(Mark(model, *ends))
    return tuple(placed)


def _group(name: str, keys: list[str], scorecard: Scorecard) -> Group:
    parts = {key: key.split(".")[-1] for key in keys if key.count(".") > 1}
    mains = [key for key in keys if key not in parts]
    details = []
    for kind in KINDS:
        members = [key for key, part in parts.items() if part_kind(part) == kind]
        if members:
            details.append(_table(kind, kind_named(kind, name), members, scorecard, _models(members, scorecard)))
    files = [model for model in _models(mains, scorecard) if is_quantised(model)]
    if files:
        compared = [model for model in ("teacher", *files, "student") if model in _models(mains, scorecard)]
        measured = [key for key in mains if any(model in scorecard[key] for model in files)]
        table = _table("quantisation", QUANTISATION, measured, scorecard, compared)
        details.append(replace(table, rows=tuple(replace(row, comparison=None) for row in table.rows)))
    whole = _table(name, group_named(name), mains, scorecard, _whole_models(mains, scorecard))
    return replace(whole, details=tuple(details))


def _table(name: str, title: Words, keys: Sequence[str], scorecard: Scorecard, models: Sequence[str]) -> Group:
    rows = tuple(_row(metric_named(key), readings(scorecard, metric_named(key)), models) for key in keys)
    return Group(name, title, tuple(in_order(list(models))), rows)


def _models(keys: Sequence[str], scorecard: Scorecard) -> list[str]:
    found = (readings(scorecard, metric_named(key)) for key in keys)
    return list(dict.fromkeys(model for models in found for model in models))


def _whole_models(keys: Sequence[str], scorecard: Scorecard) -> list[str]:
    """The models of a table, without the student's other files."""
    return [model for model in _models(keys, scorecard) if not is_quantised(model)]


def _row(metric: Metric, found: Mapping[str, Reading], models: Sequence[str]) -> Row:
    shown = {model: found[model] for model in in_order(list(models)) if model in found}
    cells = tuple(_cell(model, shown.get(model), metric) for model in in_order(list(models)))
    comparison = compare(metric, shown.get("teacher"), shown.get("student"))
    return Row(metric, cells, comparison, marks(metric, shown))


def _cell(model: str, reading: Reading | None, metric: Metric) -> Cell:
    if reading is None:
        return Cell(model)
    n = None if reading.n is None else f"{reading.n:,.0f}"
    if reading.value is None:
        told = reading.note in ("", NOT_MEASURED.en, metric.absent.en)
        return Cell(model, metric.absent, n=n, note="" if told else reading.note)
    missing = Words("exact", "精确值") if metric.exact else Words("no interval", "无区间")
    ends = interval(reading.low, reading.high, reading.unit) or missing
    return Cell(model, number(reading.value, reading.unit), unit_words(reading.unit), ends, n)


def _difference(metric: Metric, teacher: Reading, student: Reading) -> Comparison:
    (t_low, t, t_high), (s_low, s, s_high) = _ends(teacher), _ends(student)
    low, middle, high = (100 * (one - other) for one, other in ((s_low, t_high), (s, t), (s_high, t_low)))
    points = unit_words("points")
    return Comparison(
        _verdict(metric, low, high, 0.0),
        same(_signed(middle)) + points,
        _called(metric, middle > 0) if middle and metric.better else same(""),
        same(f"{_signed(low)} – {_signed(high)}"),
    )


def _factor(metric: Metric, teacher: Reading, student: Reading) -> Comparison | None:
    ends = (*_ends(teacher), *_ends(student))
    if min(ends) <= 0:
        return None
    t_low, t, t_high, s_low, s, s_high = ends
    low, middle, high = s_low / t_high, s / t, s_high / t_low
    kind = _verdict(metric, low, high, 1.0)
    if metric.better is None:
        word = Words("of the teacher's", "（与教师之比）")
    else:
        word = _called(metric, middle > 1)
        if middle < 1:
            low, middle, high = 1 / high, 1 / middle, 1 / low
    interval = same(f"{rounded(low)} – {_times(high)}") if low != high else None
    return Comparison(kind, same(_times(middle)), word, interval)


def _verdict(metric: Metric, low: float, high: float, equal: float) -> Literal["better", "worse", "undecided", "plain"]:
    if metric.better is None:
        return "plain"
    if low <= equal <= high:
        return "undecided"
    return "better" if (low > equal) == (metric.better == "higher") else "worse"


def _called(metric: Metric, larger: bool) -> Words:
    return metric.gain if larger == (metric.better == "higher") else metric.loss


def _ends(reading: Reading) -> tuple[float, float, float]:
    assert reading.value is not None
    value = reading.value
    low = value if reading.low is None else reading.low
    high = value if reading.high is None else reading.high
    return low, value, high


def _times(factor: float) -> str:
    return f"{rounded(factor)}×"


def _signed(points: float) -> str:
    text = f"{points:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
