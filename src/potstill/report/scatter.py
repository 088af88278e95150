"""Quality against what it costs: one point for each file that the student was written to, and the teacher.

In:  the scorecard.
Out: `Plot`s: points, whiskers and ticks in percent of their frame.
Does not know: how anything was measured, HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from potstill.report.curves import Tick, nice_ticks
from potstill.report.metrics import Metric, metric_named
from potstill.report.names import QUANTISED, is_quantised, mark_of, model_named
from potstill.report.scorecard import Mark, Reading, Scorecard, axis_top, marks, readings
from potstill.report.words import Words, is_share, quantity, same, tidy

QUALITY = "fidelity.top1"
COSTS = (
    ("size.file_mb", Words("Quality and size", "质量与体积")),
    ("speed.first_token_ms", Words("Quality and latency", "质量与延迟")),
)
TALL, WIDE = 8.0, 26.0
"""Room that a label takes, percent of the frame; a phone's frame is the one that matters."""
LIFTS = (1, -1, 2, -2, 3)
"""Where a label may stand: so many lines above its point, or below."""


@dataclass(frozen=True)
class Point:
    """One file.

    Args:
        name: its label. told: both values in words. across, up: its places, with whiskers. lift: lines that its label
        stands above the point. side: which way the label runs from it.
    """

    name: Words
    told: Words
    kind: str
    across: Mark
    up: Mark
    lift: int = 1
    side: str = "middle"

    @property
    def label_at(self) -> float:
        """Height of its label's middle, percent."""
        return round(_height(self, self.lift), 2)


@dataclass(frozen=True)
class Plot:
    """Points that share their axes."""

    title: Words
    across: Words
    up: Words
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]


def plots(scorecard: Scorecard, shipped: str) -> list[Plot]:
    """A plot for each cost that was measured on two files at least; `shipped` is the type that "student" has."""
    quality = metric_named(QUALITY)
    up = _files(readings(scorecard, quality))
    found = []
    for key, title in COSTS:
        metric = metric_named(key)
        across = _files(readings(scorecard, metric))
        both = [model for model in across if model in up]
        if len(both) > 1 and "student" in both:
            across, reached = ({model: known[model] for model in both} for known in (across, up))
            found.append(_plot(title, (metric, across), (quality, reached), shipped))
    return found


def _files(found: Mapping[str, Reading]) -> dict[str, Reading]:
    """What was read of the teacher and of the student's files."""
    names = [name for name in found if name in ("teacher", "student") or is_quantised(name)]
    return {name: found[name] for name in names if found[name].value is not None}


def _plot(
    title: Words, across: tuple[Metric, dict[str, Reading]], up: tuple[Metric, dict[str, Reading]], shipped: str
) -> Plot:
    places = [{mark.model: mark for mark in marks(*one)} for one in (across, up)]
    points = [
        Point(
            _label(model, shipped),
            told(model, across[1][model], up[1][model]),
            mark_of(model),
            places[0][model],
            places[1][model],
        )
        for model in across[1]
        if model in places[0] and model in places[1]
    ]
    return Plot(title, axis(*across), axis(*up), ticks_from_zero(*across), ticks_from_zero(*up), _placed(points))


def _placed(points: Sequence[Point]) -> tuple[Point, ...]:
    """Labels moved up and down until none lies on another or on a point, as far as that can be had."""
    done: list[Point] = []
    for point in sorted(points, key=lambda point: point.across.at):
        side = side_of(point.across)
        free = [lift for lift in LIFTS if _free(point, lift, [one for one in points if one is not point], done)]
        done.append(replace(point, side=side, lift=free[0] if free else LIFTS[0]))
    return tuple(done)


def side_of(mark: Mark) -> str:
    """Which way a label runs, so that it stays inside the frame."""
    return "start" if mark.at < WIDE / 2 else "end" if mark.at > 100 - WIDE / 2 else "middle"


def _free(point: Point, lift: int, others: Sequence[Point], labelled: Sequence[Point]) -> bool:
    height = _height(point, lift)
    near = [one for one in others if abs(one.across.at - point.across.at) < WIDE / 2]
    beside = [one for one in labelled if abs(one.across.at - point.across.at) < WIDE]
    clear = all(abs(one.up.at - height) >= TALL * 0.7 for one in near)
    return 0 <= height <= 112 and clear and all(abs(_height(one, one.lift) - height) >= TALL for one in beside)


def _height(point: Point, lift: int) -> float:
    return point.up.at + TALL * lift


def _label(model: str, shipped: str) -> Words:
    if model == "student":
        return same(shipped) + Words(", shipped", "（发布）")
    return same(model.removeprefix(QUANTISED)) if is_quantised(model) else model_named(model)


def told(model: str, across: Reading, up: Reading) -> Words:
    """A point in words."""
    cost, quality = (quantity(reading.value, reading.unit) for reading in (across, up))
    return model_named(model) + Words(": ", "：") + cost + Words(", ", "，") + quality


def axis(metric: Metric, found: Mapping[str, Reading]) -> Words:
    """What stands beside an axis."""
    unit = next(iter(found.values())).unit
    return metric.title if is_share(unit) else metric.title + Words(f" ({unit})", f"（{unit}）")


def ticks_from_zero(metric: Metric, found: Mapping[str, Reading]) -> tuple[Tick, ...]:
    """Round numbers along an axis, in percent of it."""
    top, unit = axis_top(metric, found.values()), next(iter(found.values())).unit
    return tuple(Tick(round(100 * tick / top, 2), tidy(tick, unit).en) for tick in nice_ticks(0, top, 4))
