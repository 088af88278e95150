"""The scorecard as text: everybody who can be chatted with in one table, the student's own steps in another."""

from __future__ import annotations

from typing import Any

from potstill.tables import scorecard_tables, setbacks


def measure(value: float | None, low: float | None = None, high: float | None = None, **more: Any) -> dict[str, Any]:
    return {"value": value, "n": 8, "low": low, "high": high, "unit": "share", **more}


CARD = {
    "size.file_mb": {"teacher": measure(491.4), "student": measure(86.12), "student-F16": measure(302.0)},
    "fidelity.top1": {"teacher": measure(1.0), "cut": measure(0.5, 0.4, 0.6), "student": measure(0.66712, 0.6, 0.7)},
    "fidelity.top1.code": {"student": measure(0.5)},
    "commonsense.error": {"teacher": measure(0.4), "chance": measure(0.75)},
    "naturalness.mean": {"student": measure(None, note="not rated")},
}


def test_steps_and_other_files_stand_apart() -> None:
    (_, columns, rows), (_, own_columns, own_rows) = scorecard_tables(CARD)

    assert columns == ["metric", "unit", "n", "teacher", "student", "chance"]
    assert [row[0] for row in rows] == ["size.file_mb", "fidelity.top1", "commonsense.error", "naturalness.mean"]
    assert own_columns == ["metric", "unit", "n", "student-F16", "cut"]
    assert [row[0] for row in own_rows] == ["size.file_mb", "fidelity.top1"]


def test_cells_show_interval_count_and_what_is_missing() -> None:
    cells = {row[0]: row[1:] for row in scorecard_tables(CARD)[0][2]}

    assert cells["size.file_mb"] == ["share", "8", "491", "86.1", ""]
    assert cells["fidelity.top1"][3] == "0.667 [0.6–0.7]"
    assert cells["naturalness.mean"] == ["share", "8", "", "not rated", ""]


def test_without_steps_there_is_one_table() -> None:
    assert len(scorecard_tables({"size.file_mb": {"student": measure(1.0)}})) == 1


def test_a_step_backwards_is_told_with_what_may_help() -> None:
    def told(**kl: float) -> list[str]:
        return setbacks({"fidelity.kl": {name: measure(value) for name, value in kl.items()}})

    assert told(cut=1.6, healed=0.143, trained=0.127, student=0.2) == []
    (line,) = told(cut=1.6, healed=0.143, trained=0.167)
    assert line.startswith("Training") and "0.143 before, 0.167 after" in line and "distill.learning_rate" in line
    (line,) = told(cut=1.6, healed=1.7, trained=0.9)
    assert line.startswith("Healing") and "prune.ridge" in line
    assert setbacks({}) == told(trained=0.5) == []
