"""What time buys: the table says what was measured, and the forecast is the line through it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from budgets import Entry, draw, forecasts, kept, table


def entry(recipe: str, minutes: float, kl: float, **more: dict[str, dict[str, float]]) -> Entry:
    report = {"seconds": minutes * 61, "steps": 10 * minutes, "tokens": 1000 * minutes, "passes": minutes / 60}
    both = {"trained": {"value": kl}, "student": {"value": kl + 0.1, "low": kl, "high": kl + 0.2, "n": 40}}
    names = ("fidelity.kl", "fidelity.top1", "code.runs", "code.passes", "commonsense.error")
    stable = ("stability.similarity", "stability.ended")
    return Entry(recipe, minutes, report, {name: both | more.get(name, {}) for name in (*names, *stable)})


def test_the_forecast_lies_on_the_line_through_the_budgets() -> None:
    runs = [entry("a", minutes, 2 * minutes**-0.25) for minutes in (30, 60, 120)]
    (line,) = forecasts([*runs, entry("alone", 30, 0.5)])
    assert "KL = 2.000 · minutes^-0.250 through 3 budgets" in line
    assert f"at 1,200 minutes it would say {2 * 1200**-0.25:.3f} nats" in line


def test_a_row_a_run_and_above_them_whoever_one_was_measured_beside() -> None:
    teacher = {"teacher": {"value": 0.8, "low": 0.7, "high": 0.9}}
    floor = {"smollm2-135m-instruct": {"value": 0.3}}
    lines = table([entry("a", 30, 0.5, **{"code.runs": teacher}), entry("b", 60, 0.4, **{"code.runs": floor})])
    above, below, first, second = lines[2:6]
    assert above.startswith("| teacher |") and "0.8 [0.7–0.9]" in above
    assert below.startswith("| smollm2-135m-instruct |") and "| 0.3 |" in below
    assert first.startswith("| a | 30 | +1.67% | 300 | 30,000 | 0.50 | 0.5 |") and "| 0.6 [0.5–0.7] |" in first
    assert second.startswith("| b | 60 |")
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert "40 for code runs" in lines[-1]


def test_what_was_not_measured_stays_empty() -> None:
    assert math.isnan(entry("a", 30, 0.5).value("fidelity.kl", "healed"))
    assert "smollm2" not in "\n".join(table([entry("a", 30, 0.5)]))


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw([entry("ours", minutes, 1 / minutes) for minutes in (30, 60)], tmp_path / "budgets.svg")
    drawn = (tmp_path / "budgets.svg").read_text(encoding="utf-8")
    assert "ours" in drawn and "minutes of training" in drawn


def test_what_was_measured_outlives_its_folder(tmp_path: Path) -> None:
    rows = tmp_path / "budgets.jsonl"
    teacher, more = {"teacher": {"value": 0.8}}, {"seed": 3}
    first = [entry("ours", 60, 0.5, **{"code.runs": teacher}), entry("theirs", 30, 0.7)]
    kept([one._replace(report=one.report | more, scores=one.scores | {"size.file_mb": {}}) for one in first], rows)
    again = kept([entry("ours", 30, 0.6), entry("theirs", 30, 0.4)], rows)
    assert again == kept([], rows) == [entry("ours", 30, 0.6), first[0], entry("theirs", 30, 0.4)]
    assert len(rows.read_text(encoding="utf-8").splitlines()) == 3
