"""The model card: what a pack can do, in numbers with their intervals, and what it cannot.

In:  what is shipped; the run's material (scorecard, gates, reports).
Out: Markdown in English and Chinese.
Does not know: how anything was measured, where the run lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from potstill.evaluate.scorecard import STUDENT, TEACHER
from potstill.models.gguf_adapter import adapter_name
from potstill.pack.manifest import Kind, PackTeacher
from potstill.report.glance import AXES
from potstill.report.material import Material
from potstill.report.metrics import Metric, metric_named
from potstill.report.names import QUANTISED, model_named
from potstill.report.scorecard import Reading, readings
from potstill.report.verdict import ruling
from potstill.report.words import DASH, Words, in_brackets, interval, millions, quantity, same

MORE_ROWS = ("fidelity.kl",)
CODE = "code.passes"
WRONG = "commonsense.error"


@dataclass(frozen=True)
class Shipped:
    """What a pack holds.

    Args:
        model: its file. bytes: with the adapter. ship: the type that the scorecard calls "student".
        adapter: the file that is switched on with the model.
    """

    name: str
    kind: Kind
    version: str
    model: str
    quantisation: str
    bytes: int
    ship: str
    teacher: PackTeacher
    adapter: str | None = None

    @property
    def measured_as(self) -> str:
        """The scorecard's name for this very file."""
        file = STUDENT if self.quantisation == self.ship else f"{QUANTISED}{self.quantisation}"
        return file if self.adapter is None else f"{file}-{adapter_name(self.adapter)}"

    @property
    def holds(self) -> str:
        """Its type, and the adapter's name where there is one."""
        return self.quantisation if self.adapter is None else f"{self.quantisation} + {adapter_name(self.adapter)}"


@dataclass(frozen=True)
class Line:
    """One row of the card's table: a metric, which way is better, a cell a model."""

    metric: Metric
    better: Words
    cells: tuple[Words, ...]


BETTER = {
    "lower": Words("lower is better", "越低越好"),
    "higher": Words("higher is better", "越高越好"),
    None: same(""),
}


def markdown(template: str, **values: Any) -> str:
    """One of the pack's templates, filled in; a value that is missing is an error."""
    environment = Environment(
        loader=PackageLoader("potstill.pack"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown and a Modelfile, not HTML
    )
    return environment.get_template(template).render(**values)


def model_card(shipped: Shipped, material: Material) -> str:
    """The card's text."""
    models = list(dict.fromkeys((shipped.measured_as, STUDENT, TEACHER)))
    return markdown(
        "MODEL_CARD.md",
        shipped=shipped,
        size=quantity(shipped.bytes / 1e6, "MB"),
        columns=[_heading(name, shipped) for name in models],
        lines=_lines(material, models),
        ruling=ruling(material.gates),
        parameters=_parameters(material),
        code=_first_known(material, CODE, models),
        wrong=_first_known(material, WRONG, models),
        languages=["en", "zh"],
    )


def cell(reading: Reading | None) -> Words:
    """A value with its interval and its count."""
    if reading is None:
        return same(DASH)
    words = quantity(reading.value, reading.unit)
    if reading.value is None:
        return words
    words += in_brackets(interval(reading.low, reading.high, reading.unit))
    return words + Words(", ", "，") + f"n={reading.n:.0f}" if reading.n and reading.low is not None else words


def _lines(material: Material, models: list[str]) -> list[Line]:
    keys = [*(key for _, part in AXES for key in part), *MORE_ROWS]
    lines = []
    for key in keys:
        metric = metric_named(key)
        found = readings(material.scorecard, metric)
        if any(name in found and found[name].value is not None for name in models):
            lines.append(Line(metric, BETTER[metric.better], tuple(cell(found.get(name)) for name in models)))
    return lines


def _heading(name: str, shipped: Shipped) -> Words:
    if name == shipped.measured_as:
        return Words("this file", "本文件") + f" ({shipped.holds})"
    return model_named(name) + (f" ({shipped.ship})" if name == STUDENT else "")


def _first_known(material: Material, key: str, models: list[str]) -> Words | None:
    """What is known of this file, else of the student: for a sentence."""
    found = readings(material.scorecard, metric_named(key))
    known = [found[name] for name in models if name != TEACHER and name in found and found[name].value is not None]
    return cell(known[0]) if known else None


def _parameters(material: Material) -> Words | None:
    amount = material.reports.get("prune", {}).get("parameters")
    return millions(float(amount)) if isinstance(amount, int | float) else None
