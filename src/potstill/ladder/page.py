"""A ladder as one self-contained page, in English and in Chinese: pictures first, then every number.

In:  a `Family`.
Out: an HTML file that needs nothing from outside and runs no script but its own.
Does not know: how anything was made or measured.
"""

from __future__ import annotations

from potstill.evaluate.scorecard import TEACHER
from potstill.ladder.standing import Family
from potstill.report.html import render_page
from potstill.report.metrics import Metric, metric_named
from potstill.report.names import mark_of, model_named
from potstill.report.scatter import Plot, Point, axis, side_of, ticks_from_zero, told
from potstill.report.scorecard import Reading, groups, marks, readings
from potstill.report.words import Words
from potstill.run import write_text

QUALITY = "fidelity.top1"
COSTS = {
    "size.file_mb": Words("Quality against megabytes", "质量与体积"),
    "speed.decode_tok_s": Words("Quality against speed", "质量与速度"),
    "speed.first_token_ms": Words("Quality against the wait for the first token", "质量与首词元延迟"),
}
Readings = dict[str, Reading]


def write_page(family: Family) -> None:
    """Write the page, whole or not at all."""
    family.page.parent.mkdir(parents=True, exist_ok=True)
    write_text(family.page, render(family))


def render(family: Family) -> str:
    """The page. The same family always gives the same text."""
    card = family.scorecard()
    content = {"members": family.members, "plots": _plots(family), "groups": groups(card)}
    asked = {"mark_of": mark_of, "model_named": model_named}
    return render_page("ladder.html", content, packages=["potstill.ladder"], asked=asked)


def _plots(family: Family) -> list[Plot]:
    card, quality = family.scorecard(), metric_named(QUALITY)
    up = _known(readings(card, quality))
    found = []
    for key, title in COSTS.items():
        across = _known(readings(card, metric_named(key)))
        both = [model for model in across if model in up]
        if any(model != TEACHER for model in both):
            axes = [(metric_named(key), across), (quality, up)]
            found.append(_plot(title, *[(metric, {model: known[model] for model in both}) for metric, known in axes]))
    return found


def _known(found: Readings) -> Readings:
    return {model: reading for model, reading in found.items() if reading.value is not None}


def _plot(title: Words, across: tuple[Metric, Readings], up: tuple[Metric, Readings]) -> Plot:
    places = [{mark.model: mark for mark in marks(*one)} for one in (across, up)]
    points = tuple(
        Point(
            name=model_named(model),
            told=told(model, across[1][model], up[1][model]),
            kind="teacher" if model == TEACHER else "student",
            across=places[0][model],
            up=places[1][model],
            # The teacher stands at the top of the frame: its name goes below.
            lift=-1 if model == TEACHER else 1,
            side=side_of(places[0][model]),
        )
        for model in across[1]
    )
    return Plot(title, axis(*across), axis(*up), ticks_from_zero(*across), ticks_from_zero(*up), points)
