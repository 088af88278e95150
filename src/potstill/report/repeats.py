"""The same question asked again and again: how long the answers are, how they end, and how they read.

In:  stability.json: model → questions, each with its answers {text, ended, tokens}.
Out: histograms of answer length in a 100 × 100 frame; questions with every model's answers.
Does not know: how alike answers are scored, HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from potstill.report.curves import Tick, nice_ticks
from potstill.report.material import Json
from potstill.report.names import in_order, mark_of, model_named
from potstill.report.reading import language_of
from potstill.report.words import Words, same

BINS = 24
"""Columns of a histogram: fewer hide its shape, more show only chance."""


@dataclass(frozen=True)
class Answer:
    """One of the answers, and how long it is."""

    text: str
    note: Words


@dataclass(frozen=True)
class Column:
    """Answers of about one length: those that ended by themselves, and on top of them those that were cut off."""

    at: float
    width: float
    ended: float
    cut: float


@dataclass(frozen=True)
class Lengths:
    """One model's answer lengths."""

    name: Words
    kind: str
    columns: tuple[Column, ...]
    typical: Words
    ended: Words


@dataclass(frozen=True)
class LengthChart:
    """All models' answer lengths on one axis."""

    ticks: tuple[Tick, ...]
    rows: tuple[Lengths, ...]


@dataclass(frozen=True)
class Tries:
    """What one model answered to one question."""

    name: Words
    kind: str
    summary: Words
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Question:
    """One question and everybody's answers."""

    text: str
    language: str
    tries: tuple[Tries, ...]


def length_chart(stability: Mapping[str, Sequence[Json]]) -> LengthChart | None:
    """Histograms of answer lengths, tokens; None where no answers were kept."""
    found = {model: [answer for entry in entries for answer in _answers(entry)] for model, entries in stability.items()}
    found = {model: answers for model, answers in found.items() if answers}
    top = max((_tokens(answer) for answers in found.values() for answer in answers), default=0)
    if not top:
        return None
    binned = {model: _binned(answers, top) for model, answers in found.items()}
    # One height for all: models that were asked the same can be compared by eye.
    highest = max(sum(counts) / len(found[model]) for model, bins in binned.items() for counts in bins)
    rows = tuple(
        Lengths(
            model_named(model),
            mark_of(model),
            _columns(binned[model], highest * len(found[model])),
            _typical(found[model]),
            _ended(found[model]),
        )
        for model in in_order(list(found))
    )
    return LengthChart(tuple(Tick(round(100 * one / top, 2), f"{one:,.6g}") for one in nice_ticks(0, top, 4)), rows)


def questions(stability: Mapping[str, Sequence[Json]]) -> list[Question]:
    """Every question once, in the first model's order, with the answers of all models that were asked it."""
    asked: dict[str, dict[str, Sequence[Json]]] = {}
    for model, entries in stability.items():
        for entry in entries:
            asked.setdefault(str(entry.get("question") or ""), {})[model] = _answers(entry)
    told = []
    for text, models in asked.items():
        tries = tuple(_tries(model, models[model]) for model in in_order(list(models)))
        told.append(Question(text, language_of(text), tries))
    return told


def _tries(model: str, answers: Sequence[Json]) -> Tries:
    different = len({str(answer.get("text") or "").strip() for answer in answers})
    wording = Words(f"{different} wording{'s' * (different != 1)}", f"{different} 种说法")
    summary = _ended(answers) + Words(", ", "，") + wording
    if answers:
        summary = summary + Words(", ", "，") + _span(answers)
    return Tries(model_named(model), mark_of(model), summary, tuple(_answer(answer) for answer in answers))


def _answer(answer: Json) -> Answer:
    tokens = _tokens(answer)
    note = Words(f"{tokens} token{'s' * (tokens != 1)}", f"{tokens} 词元")
    if not answer.get("ended"):
        note = note + Words(", cut off", "，被截断")
    return Answer(str(answer.get("text") or ""), note)


def _binned(answers: Sequence[Json], top: int) -> list[tuple[int, int]]:
    """For each column, how many answers ended by themselves, and how many were cut off."""
    counts = [[0, 0] for _ in range(BINS)]
    for answer in answers:
        counts[min(BINS - 1, BINS * _tokens(answer) // top)][0 if answer.get("ended") else 1] += 1
    return [(ended, cut) for ended, cut in counts]


def _columns(bins: Sequence[tuple[int, int]], highest: float) -> tuple[Column, ...]:
    width = 100 / BINS
    return tuple(
        Column(round(index * width, 2), round(0.8 * width, 2), *(round(100 * one / highest, 2) for one in counts))
        for index, counts in enumerate(bins)
        if any(counts)
    )


def _typical(answers: Sequence[Json]) -> Words:
    middle = median(_tokens(answer) for answer in answers)
    return Words(f"median {middle:.0f} tokens", f"中位数 {middle:.0f} 词元") + Words(", ", "，") + _span(answers)


def _span(answers: Sequence[Json]) -> Words:
    tokens = [_tokens(answer) for answer in answers]
    low, high = min(tokens), max(tokens)
    span = f"{low}" if low == high else f"{low} – {high}"
    return same(span) + Words(" tokens", " 词元")


def _ended(answers: Sequence[Json]) -> Words:
    ended = sum(bool(answer.get("ended")) for answer in answers)
    return Words(f"{ended} of {len(answers)} ended by themselves", f"{len(answers)} 个答案中 {ended} 个自行结束")


def _answers(entry: Json) -> list[Json]:
    return [answer for answer in entry.get("answers") or [] if isinstance(answer, dict)]


def _tokens(answer: Json) -> int:
    tokens: Any = answer.get("tokens")
    return int(tokens) if isinstance(tokens, int | float) and tokens > 0 else 0
