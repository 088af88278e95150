"""The verdict: does the student reach what the recipe asks for?

In:  the gates of a recipe (metric → rule), the measures of a scorecard.
Out: one `Verdict` a gate; the exit code, a line for people, plain rows for the report.
Does not know: how anything was measured, files, the terminal.

A gate is decided by a margin, which is at least 0 where the rule holds, and by the margin's 95 % interval: met where
all of the interval holds, missed where none of it does, undecided in between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from potstill.bounds import BOUND
from potstill.evaluate.scorecard import STUDENT, TEACHER, Measure, student_t

State = Literal["met", "missed", "undecided", "not measured"]
EXACT = "size."
"""Metrics that are facts: no error although no interval. A single timing has no interval either, but an error."""
MOST_MORE = 10_000
"""Larger answers to "how many more samples" all mean the same: not this way. Read as "so many or more"."""
ON_THE_BOUND = 1e-12
"""Margins below this share of what they were computed from are rounding: 0.3 - 0.1 is not quite 0.2."""
SAMPLE = {
    **{"speed": "round", "memory": "round", "stream": "round", "energy": "round"},
    **{"fidelity": "answer", "code": "task", "commonsense": "question", "stability": "question"},
    **{"answers": "question", "naturalness": "rated conversation"},
}
"""What is drawn once more to make an interval narrower."""


@dataclass(frozen=True)
class Verdict:
    """What became of one gate.

    Args:
        metric, rule: as the recipe has them.
        state: "not measured" where the student's value, or a teacher's that the rule needs, is absent or not finite.
        value, low, high: the student's measure and its own interval, as in the scorecard.
        bound: what the rule asks for, in the same unit; None where it needs a teacher that was not measured.
        unit: of value and bound; empty where nothing was measured.
        more: samples of each model (counted as in the student's measure) that would decide beyond those there are, if
            estimates stayed and intervals shrank with 1/√n, those of timings with Student's t as well; at most
            `MOST_MORE`, which reads "or more". None where the gate is decided, where an error is unknown, and where
            the estimate lies on the bound: no number decides.
        bound_low, bound_high: the bound's interval where it comes from the teacher and is known.
    """

    metric: str
    rule: str
    state: State
    value: float | None
    bound: float | None
    low: float | None
    high: float | None
    unit: str
    more: int | None
    bound_low: float | None = None
    bound_high: float | None = None


@dataclass(frozen=True)
class Interval:
    """An estimate with its ends; ends that are None are unknown, not absent."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class _Rule:
    """value <= or >= factor × teacher + shift; without a teacher, factor is 0."""

    at_most: bool
    needs_teacher: bool
    factor: float
    shift: float

    def bound(self, teacher: Interval | None) -> Interval | None:
        if not self.needs_teacher:
            return Interval(self.shift, self.shift, self.shift)
        if teacher is None:
            return None
        value, low, high = (
            None if end is None else self.factor * end + self.shift
            for end in (teacher.value, teacher.low, teacher.high)
        )
        assert value is not None
        return Interval(value, low, high)


def judge(gates: Mapping[str, str], card: Mapping[str, Mapping[str, Measure]]) -> list[Verdict]:
    """Judge the model named "student", beside the one named "teacher", by every gate, in the gates' order.

    Args:
        gates: metric → rule in the grammar of `bounds.BOUND`; shares are 0 to 1, so that 6 points are 0.06.
        card: metric → model → measure (`Scorecard.measures`).

    A measure without an interval is exact where it is a size; elsewhere (a single timing) its error is unknown, and
    what hangs on it is undecided.

    Raises: ValueError where a rule is none; a validated recipe has no such rule.
    """
    return [_judge_one(metric, rule, card.get(metric, {})) for metric, rule in gates.items()]


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """2 where any gate was missed, else 3 where any is undecided or not measured, else 0."""
    states = {verdict.state for verdict in verdicts}
    if "missed" in states:
        return 2
    return 3 if states - {"met"} else 0


def as_rows(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Plain rows, as the report reads them; the bound's own interval follows from the scorecard and is left out."""
    rows = [asdict(verdict) for verdict in verdicts]
    return [{key: cell for key, cell in row.items() if key not in ("bound_low", "bound_high")} for row in rows]


def difference(first: Interval, second: Interval) -> Interval:
    """first − second, with an interval from the two intervals (MOVER, the method of variance estimates recovery).

    Each end keeps its own distance, so that Wilson's skewed intervals stay skewed. The two are taken as independent.
    Models that answered the same questions rather succeed and fail together: then this is too wide, not too narrow.
    An estimate outside of its own interval (a bootstrap of few samples can do that) has distance 0 to that end.

    Args:
        first, second: with known ends, in one unit.

    Source: Zou & Donner 2008, Statistics in Medicine 27:1693; for two shares it is method 10 of Newcombe 1998.
    """
    assert first.low is not None and first.high is not None and second.low is not None and second.high is not None
    value = first.value - second.value
    down = math.hypot(max(0.0, first.value - first.low), max(0.0, second.high - second.value))
    up = math.hypot(max(0.0, first.high - first.value), max(0.0, second.value - second.low))
    rounding = ON_THE_BOUND * max(abs(first.value), abs(second.value))
    value, low, high = (0.0 if abs(end) <= rounding else end for end in (value, value - down, value + up))
    return Interval(value, low, high)


def _judge_one(metric: str, rule: str, row: Mapping[str, Measure]) -> Verdict:
    terms, measure = _parse(rule), row.get(STUDENT)
    exact = metric.startswith(EXACT)
    student, bound = _estimate(measure, exact), terms.bound(_estimate(row.get(TEACHER), exact))
    state, margin = _decide(student, bound, terms.at_most)
    more = _more(margin, measure.n, sample_of(metric) == "round") if margin and measure else None
    known = measure or row.get(TEACHER)
    has_interval = terms.needs_teacher and bound is not None and not exact
    return Verdict(
        metric=metric,
        rule=rule,
        state=state,
        value=student.value if student else None,
        bound=bound.value if bound else None,
        low=measure.low if student and measure else None,
        high=measure.high if student and measure else None,
        unit=known.unit if known else "",
        more=more,
        bound_low=bound.low if bound and has_interval else None,
        bound_high=bound.high if bound and has_interval else None,
    )


def _parse(rule: str) -> _Rule:
    found = BOUND.fullmatch(rule.strip())
    if found is None:
        raise ValueError(f"not a gate: {rule!r}")
    at_most = found["sign"] == "<="
    if found["teacher"] is None:
        return _Rule(at_most, False, 0.0, float(found["limit"]))
    shift = float(found["shift"] or 0.0)
    return _Rule(at_most, True, float(found["factor"] or 1.0), -shift if found["plus"] == "-" else shift)


def _estimate(measure: Measure | None, exact: bool) -> Interval | None:
    if measure is None or measure.value is None or not math.isfinite(measure.value):
        return None
    low, high = measure.low, measure.high
    if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
        return Interval(measure.value, low, high)
    return Interval(measure.value, measure.value, measure.value) if exact else Interval(measure.value, None, None)


def _decide(student: Interval | None, bound: Interval | None, at_most: bool) -> tuple[State, Interval | None]:
    """The state, and where it is undecided though both are known, the margin."""
    if student is None or bound is None:
        return "not measured", None
    if student.low is None or bound.low is None:
        return "undecided", None
    margin = difference(bound, student) if at_most else difference(student, bound)
    assert margin.low is not None and margin.high is not None
    if margin.low >= 0:
        return "met", None
    if margin.high < 0:
        return "missed", None
    return "undecided", margin


def _more(margin: Interval, n: int, few: bool) -> int | None:
    """Samples beyond `n` after which the margin's interval would no longer hold 0.

    Args:
        few: there are so few that Student's t falls as they become more.
    """
    assert margin.low is not None and margin.high is not None
    if margin.value == 0:
        return None
    half = margin.value - margin.low if margin.value > 0 else margin.high - margin.value

    def reaches(count: int) -> bool:
        shrunk = half * math.sqrt(n / count) * (student_t(count - 1) / student_t(n - 1) if few else 1.0)
        return shrunk < abs(margin.value) * (1 - ON_THE_BOUND)

    return next((more for more in range(1, MOST_MORE) if reaches(n + more)), MOST_MORE)


def sample_of(metric: str) -> str:
    """What is drawn once more, by the first part of a metric's name."""
    return SAMPLE.get(metric.partition(".")[0], "sample")


def on_the_bound(value: float | None, bound: float | None) -> bool:
    """Whether an estimate lies where the rule draws its line, but for rounding."""
    return value is not None and bound is not None and math.isclose(value, bound, rel_tol=1e-9)


def explain(verdict: Verdict) -> str:
    """One plain line: the state, the student's value, what was asked, and what would decide."""
    if verdict.value is None or verdict.bound is None:
        lacking = [STUDENT] * (verdict.value is None) + [TEACHER] * (verdict.bound is None)
        return f"{verdict.metric}: not measured for {' and '.join(lacking)}, where {verdict.rule} is asked"
    digits = _decimals(verdict.value, verdict.bound, verdict.unit)
    unit = "" if verdict.unit in ("share", "") else f" {verdict.unit}"
    value = _shown(verdict.value, verdict.low, verdict.high, digits)
    asked = "is asked"
    if "teacher" in verdict.rule:
        undecided = verdict.state == "undecided"
        ends = (verdict.bound_low, verdict.bound_high) if undecided else (None, None)
        asked = f"asks for {_shown(verdict.bound, *ends, digits)}"
    rest = f"; {_what_would_decide(verdict)}" if verdict.state == "undecided" else ""
    return f"{verdict.metric}: {verdict.state}, {value}{unit} where {verdict.rule} {asked}{rest}"


def _what_would_decide(verdict: Verdict) -> str:
    sample = sample_of(verdict.metric)
    if verdict.more is None:
        if on_the_bound(verdict.value, verdict.bound):
            return f"the estimate lies on the bound, where no number of {sample}s decides"
        return f"one {sample} does not tell its own error, so each model needs at least two"
    if verdict.more >= MOST_MORE:
        return f"{MOST_MORE} more {sample}s or even more would decide"
    return f"about {verdict.more} more {sample}{'s' * (verdict.more > 1)} would decide"


def _decimals(value: float, bound: float, unit: str) -> int:
    """Two decimals for shares, three figures of the smaller number else; more where the two would look the same."""
    smaller = min((abs(number) for number in (value, bound) if number), default=1.0)
    digits = 2 if unit == "share" else min(6, max(0, 2 - math.floor(math.log10(smaller))))
    while value != bound and round(value, digits) == round(bound, digits) and digits < 9:
        digits += 1
    return digits


def _shown(value: float, low: float | None, high: float | None, digits: int) -> str:
    interval = "" if low is None or high is None else f" [{low:.{digits}f}–{high:.{digits}f}]"
    return f"{value:.{digits}f}{interval}"
