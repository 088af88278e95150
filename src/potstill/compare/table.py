"""A comparison as rows of text for a terminal, and as JSON.

In:  a `Comparison`.
Out: titles, columns and rows; a value that JSON can hold.
Does not know: terminals, pages, how anything was compared.
"""

from __future__ import annotations

import json
from typing import Any

from potstill.compare.pairing import Estimate
from potstill.compare.standing import Comparison, Reading, Standing
from potstill.report.words import Table, with_ends


def comparison_tables(comparison: Comparison) -> list[Table]:
    """A row an entrant, metric by metric; then what differs in the recipes."""
    first = comparison.entrants[0].name
    names = [entrant.name for entrant in comparison.entrants]
    rows = [row for standing in comparison.standings for row in _rows(standing, names)]
    columns = ["metric", "run", "value [95 %]", f"against {first} [95 %]", ""]
    tables = [("Compared on the same items", columns, rows)]
    if comparison.recipes:
        tables.append(("What differs in the recipes", ["key", *names], _keys(comparison)))
    return tables


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Everything, by name."""
    names = [entrant.name for entrant in comparison.entrants]
    return {
        "runs": {one.name: [str(run.folder) for run in one.runs] for one in comparison.entrants},
        "warnings": list(comparison.warnings),
        "metrics": {one.metric.key: _standing_json(one, names) for one in comparison.standings},
        "recipes": {key: dict(zip(names, values, strict=True)) for key, values in comparison.recipes.items()},
    }


def _standing_json(standing: Standing, names: list[str]) -> dict[str, Any]:
    readings = zip(names, standing.readings, strict=True)
    return {
        "unit": standing.unit,
        "better": standing.metric.better,
        "n": standing.n,
        "runs": {name: _reading_json(reading) for name, reading in readings},
    }


def _reading_json(reading: Reading) -> dict[str, Any]:
    value, difference = (_ends(one) for one in (reading.value, reading.difference))
    return {
        "value": value[0], "low": value[1], "high": value[2],
        "difference": difference[0], "difference_low": difference[1], "difference_high": difference[2],
        "paired": reading.paired, "verdict": reading.verdict,
    }  # fmt: skip


def _ends(estimate: Estimate | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if estimate is None else (estimate.value, estimate.low, estimate.high)


def _rows(standing: Standing, names: list[str]) -> list[list[str]]:
    unit = f", {standing.unit}" if standing.unit else ""
    count = f", n = {standing.n}" if standing.n else ""
    heads = [f"{standing.metric.key}{unit}{count}", *[""] * (len(names) - 1)]
    return [
        [head, name, _cell(reading.value, ""), _cell(reading.difference, "+"), _word(reading)]
        for head, name, reading in zip(heads, names, standing.readings, strict=True)
    ]


def _word(reading: Reading) -> str:
    if reading.verdict in ("first", "plain"):
        return "" if reading.paired or reading.difference is None else "not paired"
    return reading.verdict


def _cell(estimate: Estimate | None, sign: str) -> str:
    if estimate is None:
        return ""
    return with_ends(estimate.value, estimate.low, estimate.high, sign=sign, between=" to ")


def _keys(comparison: Comparison) -> list[list[str]]:
    return [
        [key, *("–" if value is None else json.dumps(value, ensure_ascii=False) for value in values)]
        for key, values in comparison.recipes.items()
    ]
