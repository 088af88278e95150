"""The scorecard and the verdict as rows of text, for a terminal.

In:  `scorecard.json` as it was read.
Out: titles, columns and rows; a line for each step that went backwards.
Does not know: terminals, how anything was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from potstill.report.words import Table, plain, with_ends

Card = Mapping[str, Mapping[str, Mapping[str, Any]]]
STEPS = ("cut", "healed", "trained")
"""The student before it was whole; files of it that do not ship are called `student-<type>`."""
BACKWARDS = {
    "healed": "Healing made the student worse: {} More prune.calibration_tokens or a larger prune.ridge may help.",
    "trained": "Training made the student worse: {} A lower distill.learning_rate or more text may help.",
}
"""What is said where a step led away from the teacher, and what may help."""


def scorecard_tables(card: Card) -> list[Table]:
    """Main rows for everybody who can be chatted with; then the fidelity of the student's own steps and files.

    Rows by category, position, length or thread count are left to `--json` and to the report.
    """
    main = {metric: row for metric, row in card.items() if metric.count(".") == 1}
    names = list(dict.fromkeys(name for row in main.values() for name in row))
    own = [name for name in names if name in STEPS or name.startswith("student-")]
    others = [name for name in names if name not in own]
    steps = {metric: row for metric, row in main.items() if any(name in row for name in own)}
    tables = [_table("Scorecard: value [95 % interval]", main, others)]
    if own:
        tables.append(_table("The student step by step, and its other files", steps, own))
    return tables


def setbacks(card: Card) -> list[str]:
    """A line for each step after which the student was further from its teacher than before, by the KL measured."""
    known = [(name, one["value"]) for name in STEPS if (one := card.get("fidelity.kl", {}).get(name))]
    return [
        BACKWARDS[name].format(f"KL {plain(old)} before, {plain(new)} after.")
        for (_, old), (name, new) in pairwise(known)
        if new > old
    ]


def _table(title: str, card: Card, models: Sequence[str]) -> Table:
    rows = [[metric, *_shared(row, models), *(_cell(row.get(name)) for name in models)] for metric, row in card.items()]
    return title, ["metric", "unit", "n", *models], rows


def _shared(row: Mapping[str, Mapping[str, Any]], models: Sequence[str]) -> tuple[str, str]:
    """Unit and count, which models share; several counts where they do not."""
    shown = [row[name] for name in models if name in row]
    counts = dict.fromkeys(str(measure["n"]) for measure in shown)
    return str(shown[0]["unit"]) if shown else "", "/".join(counts)


def _cell(measure: Mapping[str, Any] | None) -> str:
    if measure is None:
        return ""
    if measure["value"] is None:
        return str(measure.get("note", "not measured"))
    return with_ends(measure["value"], measure["low"], measure["high"])
