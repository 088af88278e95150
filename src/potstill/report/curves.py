"""The training log as curves.

In:  the log's lines: a step each, losses as means over its answer positions.
Out: `Panel`s, with points and ticks in percent of their frame.
Does not know: what the losses are made of, HTML.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from potstill.report.words import Words, rounded, same

POINTS = 400
"""Most points drawn: more can't be seen, and would only make the page heavy."""
SMOOTH = 25
"""The bold line is a mean over this many neighbours of a run's steps, at most a tenth of them."""


@dataclass(frozen=True)
class Tick:
    """A gridline: where, percent, and what is written there."""

    at: float
    label: str


@dataclass(frozen=True)
class Curve:
    """One loss: every step (`raw`) and its moving mean (`smooth`), as SVG paths in a 100 × 100 frame."""

    name: Words
    raw: str
    smooth: str
    start: str
    end: str


@dataclass(frozen=True)
class Panel:
    """Curves that share their axes."""

    title: Words
    unit: Words
    across: Words
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    curves: tuple[Curve, ...]


LOGIT_LOSSES = (
    *("forward_kl", "reverse_kl", "jensen_shannon", "skewed_kl", "total_variation"),
    "cross_entropy",
)


def panels(steps: Sequence[dict[str, Any]]) -> list[Panel]:
    """Logit losses in one panel, hidden ones and attention maps in others; the total too where it is something else."""
    seen = {name: None for step in steps for name in step}
    logit = [name for name in LOGIT_LOSSES if name in seen]
    found = []
    if logit:
        title = Words("Logit losses on the training answers", "训练答案上的 logit 损失")
        found.append(_panel(title, Words("nats", "纳特"), logit, steps))
    matched = (
        (
            "hidden_",
            Words("Hidden loss, 1 − cosine, by student and teacher layer", "隐藏层损失，1 − 余弦，按学生层与教师层"),
        ),
        ("attention_", Words("Attention maps, KL, by student and teacher layer", "注意力图，KL，按学生层与教师层")),
        ("share_", Words("Share of the gradient", "梯度占比")),
    )
    for kind, title in matched:
        if names := [name for name in seen if name.startswith(kind)]:
            found.append(_panel(title, same(""), names, steps))
    if "loss" in seen and (len(found) != 1 or len(logit) != 1):
        found.append(_panel(Words("Total loss", "总损失"), same(""), ["loss"], steps))
    return found


def nice_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers within [low, high], about `wanted` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / max(wanted, 1)
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean over `window` neighbours around each value, fewer at both ends."""
    half = window // 2
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = []
    for index in range(len(values)):
        first, last = max(0, index - half), min(len(values), index + half + 1)
        means.append((sums[last] - sums[first]) / (last - first))
    return means


def _panel(title: Words, unit: Words, names: Sequence[str], steps: Sequence[dict[str, Any]]) -> Panel:
    timed = all("seconds" in step for step in steps) and steps[-1]["seconds"] > 0
    across = Words("minutes of training", "训练分钟数") if timed else Words("steps", "步数")
    series = {name: _series(name, steps, timed) for name in names}
    right = max((x for points in series.values() for x, _ in points), default=1.0) or 1.0
    top = 1.04 * max((y for points in series.values() for _, y in points), default=1.0) or 1.0
    return Panel(
        title,
        unit,
        across,
        tuple(Tick(round(100 * x / right, 2), _tick(x)) for x in nice_ticks(0, right, 5)),
        tuple(Tick(round(100 * y / top, 2), _tick(y)) for y in nice_ticks(0, top, 4)),
        tuple(_curve(name, points, right, top) for name, points in series.items() if points),
    )


def _series(name: str, steps: Sequence[dict[str, Any]], timed: bool) -> list[tuple[float, float]]:
    """(minutes or step, loss), where both are numbers; a loss that isn't finite has no place on paper."""
    points = []
    for index, step in enumerate(steps, 1):
        loss = step.get(name)
        if isinstance(loss, int | float) and math.isfinite(loss):
            points.append((step["seconds"] / 60 if timed else float(step.get("step", index)), float(loss)))
    return points


def _curve(name: str, points: Sequence[tuple[float, float]], right: float, top: float) -> Curve:
    losses = [loss for _, loss in points]
    smooth = moving_mean(losses, max(1, min(SMOOTH, len(points) // 10)))
    tenth = max(1, len(points) // 10)
    return Curve(
        _curve_name(name),
        _path([(x / right, y / top) for x, y in points]),
        _path([(x / right, mean / top) for (x, _), mean in zip(points, smooth, strict=True)]),
        rounded(sum(losses[:tenth]) / tenth),
        rounded(sum(losses[-tenth:]) / tenth),
    )


def _curve_name(name: str) -> Words:
    parts = name.split("_")
    if parts[0] in ("hidden", "attention") and len(parts) == 3:
        return Words(f"student {parts[1]} ↔ teacher {parts[2]}", f"学生第 {parts[1]} 层 ↔ 教师第 {parts[2]} 层")
    return same(name)


def _path(points: Sequence[tuple[float, float]]) -> str:
    stride = max(1, math.ceil(len(points) / POINTS))
    shown = list(points[::stride])
    if shown[-1] != points[-1]:
        shown.append(points[-1])
    places = [f"{100 * x:.2f} {100 - 100 * max(y, 0.0):.2f}" for x, y in shown]
    return "M" + "L".join(places)


def _tick(value: float) -> str:
    return f"{value:,.6g}"
