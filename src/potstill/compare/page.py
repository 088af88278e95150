"""A comparison as one self-contained page, in English and in Chinese.

In:  a `Comparison`.
Out: an HTML file that needs nothing from outside and runs no script but its own.
Does not know: how anything was compared or measured.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.compare.pairing import Estimate
from potstill.compare.standing import Comparison, Reading, Standing
from potstill.report.html import render_page
from potstill.report.metrics import Metric
from potstill.report.names import group_named
from potstill.report.words import DASH, Words, interval, is_share, number, quantity, same, unit_words
from potstill.run import write_text

HEADLINES = (
    "fidelity.kl", "fidelity.top1", "code.runs", "code.passes", "commonsense.error", "stability.similarity",
    "speed.decode_tok_s", "size.file_mb",
)  # fmt: skip
"""What is open when the page opens; the rest waits for a click."""
ROOM = 1.06
VERDICTS = {
    "undecided": Words("undecided", "未定"),
    "first": Words("the first", "基准"),
    "plain": same(""),
}


@dataclass(frozen=True)
class Place:
    """Where a difference stands on an axis with 0 in its middle and better to the right; percent."""

    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """One entrant on one metric, in words."""

    name: str
    value: Words
    interval: Words
    difference: Words
    difference_interval: Words
    verdict: str
    word: Words
    place: Place | None


@dataclass(frozen=True)
class Block:
    """One metric with all entrants."""

    metric: Metric
    n: int
    lines: tuple[Line, ...]


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(comparison))


def render(comparison: Comparison) -> str:
    """The page. The same comparison always gives the same text."""
    names = [entrant.name for entrant in comparison.entrants]
    blocks = [_block(standing, names) for standing in comparison.standings]
    content = {
        "entrants": comparison.entrants,
        "warnings": comparison.warnings,
        "headlines": [block for block in blocks if block.metric.key in HEADLINES],
        "groups": _groups([block for block in blocks if block.metric.key not in HEADLINES]),
        "recipes": {key: [_setting(value) for value in values] for key, values in comparison.recipes.items()},
    }
    return render_page("compare.html", content, packages=["potstill.compare"], styles=["compare.css"])


def _groups(blocks: Sequence[Block]) -> list[tuple[Words, list[Block]]]:
    found: dict[str, list[Block]] = {}
    for block in blocks:
        found.setdefault(block.metric.key.partition(".")[0], []).append(block)
    return [(group_named(name), members) for name, members in found.items()]


def _block(standing: Standing, names: Sequence[str]) -> Block:
    ends = [abs(end) for one in standing.readings if one.difference for end in _ends(one.difference)]
    extent = ROOM * max(ends, default=0.0)
    pairs = zip(names, standing.readings, strict=True)
    return Block(standing.metric, standing.n, tuple(_line(name, one, standing, extent) for name, one in pairs))


def _line(name: str, reading: Reading, standing: Standing, extent: float) -> Line:
    unit, metric = standing.unit, standing.metric
    difference = reading.difference
    word = VERDICTS.get(reading.verdict) or (metric.gain if reading.verdict == "better" else metric.loss)
    return Line(
        name=name,
        value=quantity(reading.value.value, unit) if reading.value else metric.absent,
        interval=(interval(reading.value.low, reading.value.high, unit) if reading.value else None) or same(""),
        difference=_signed(difference.value, unit) + _points(unit) if difference else same(""),
        difference_interval=_difference_interval(difference, unit),
        verdict=reading.verdict,
        word=word if reading.paired or difference is None else Words("not paired", "未配对"),
        place=_place(difference, extent, metric.better == "lower") if difference and extent else None,
    )


def _difference_interval(estimate: Estimate | None, unit: str) -> Words:
    if estimate is None or estimate.low is None or estimate.high is None:
        return same("")
    return _signed(estimate.low, unit) + Words(" to ", " 至 ") + _signed(estimate.high, unit)


def _signed(value: float, unit: str) -> Words:
    """A difference; of shares, in points."""
    text = number(value, "share" if is_share(unit) else "").en.removesuffix("%")
    return same(text if value <= 0 or text.startswith("+") else f"+{text}")


def _points(unit: str) -> Words:
    return unit_words("points") if is_share(unit) else unit_words(unit)


def _place(difference: Estimate, extent: float, flipped: bool) -> Place:
    low, at, high = (50 + (-50 if flipped else 50) * end / extent for end in _ends(difference))
    return Place(round(at, 2), round(min(low, high), 2), round(max(low, high), 2))


def _ends(estimate: Estimate) -> tuple[float, float, float]:
    low = estimate.value if estimate.low is None else estimate.low
    return low, estimate.value, estimate.value if estimate.high is None else estimate.high


def _setting(value: Any) -> str:
    return DASH if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
