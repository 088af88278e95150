"""Values against each other: factors, differences, verdicts, places on an axis; and how numbers are written.

In:  readings made by hand.
Out: pass or fail.
Does not know: files, HTML.
"""

from __future__ import annotations

import math

import pytest
from finished_run import full_scorecard, reading, scorecard

from potstill.report.curves import moving_mean, nice_ticks, panels
from potstill.report.metrics import METRICS, metric_named
from potstill.report.scorecard import Comparison, compare, groups, marks, position, read_cell, readings
from potstill.report.words import (
    NOT_MEASURED,
    Words,
    anything,
    duration,
    megabytes,
    number,
    quantity,
    rounded,
    tidy,
    without_folders,
)


def against(key: str, teacher: tuple[float, ...], student: tuple[float, ...], unit: str = "") -> Comparison:
    """Student against teacher, each (value) or (value, low, high)."""
    metric = metric_named(key)
    ends = [one if len(one) == 3 else (one[0], None, None) for one in (teacher, student)]
    read = [read_cell(reading(*one, n=9, unit=unit), metric) for one in ends]
    comparison = compare(metric, read[0], read[1])
    assert comparison is not None
    return comparison


@pytest.mark.parametrize(
    ("key", "teacher", "student", "kind", "amount", "word"),
    [
        ("speed.first_token_ms", (300, 290, 310), (150, 140, 160), "better", "2.00×", "sooner"),
        ("speed.first_token_ms", (150, 140, 160), (300, 290, 310), "worse", "2.00×", "later"),
        ("speed.decode_tok_s", (30, 29, 31), (120, 110, 130), "better", "4.00×", "faster"),
        ("speed.decode_tok_s", (30, 29, 31), (15, 14, 16), "worse", "2.00×", "slower"),
        ("speed.load_s", (1.0, 0.8, 1.2), (0.8, 0.6, 1.0), "undecided", "1.25×", "faster"),
        ("code.runs", (0.8, 0.75, 0.85), (0.7, 0.65, 0.74), "worse", "−10.0 points", "worse"),
        ("code.runs", (0.8, 0.7, 0.9), (0.7, 0.6, 0.8), "undecided", "−10.0 points", "worse"),
        ("commonsense.error", (0.4, 0.38, 0.42), (0.3, 0.28, 0.32), "better", "−10.0 points", "better"),
        ("code.runs", (0.8, 0.7, 0.9), (0.8, 0.7, 0.9), "undecided", "0.0 points", ""),
        ("energy.joule", (4.0, 3.9, 4.1), (1.0, 0.9, 1.1), "plain", "0.250×", "of the teacher's"),
    ],
)
def test_a_comparison_names_the_direction(
    key: str, teacher: tuple[float, ...], student: tuple[float, ...], kind: str, amount: str, word: str
) -> None:
    comparison = against(key, teacher, student)
    assert (comparison.kind, comparison.amount.en, comparison.word.en) == (kind, amount, word)


def test_the_interval_of_a_factor_is_the_widest_that_both_allow() -> None:
    comparison = against("speed.first_token_ms", (300, 200, 400), (100, 50, 100))
    assert comparison.interval is not None and comparison.interval.en == "2.00 – 8.00×"


def test_no_factor_where_it_has_no_meaning() -> None:
    metric = metric_named("fidelity.kl")
    zero, one = (read_cell(reading(value, None, None, 1, "nats"), metric) for value in (0.0, 1.0))
    nothing, infinite = (read_cell(reading(value, None, None, 1, "nats"), metric) for value in (None, math.inf))
    assert compare(metric, zero, one) is compare(metric, one, nothing) is compare(metric, one, infinite) is None


def test_every_metric_and_model_of_the_scorecard_is_shown() -> None:
    card = full_scorecard() | {"odd": {"teacher": 3.0}, "code.lines": {"zebra": reading(0.5, 0.4, 0.6, 50, "share")}}
    shown = groups(card)
    tables = [table for group in shown for table in (group, *group.details)]
    assert {row.metric.key for table in tables for row in table.rows} == set(card)
    cells = {
        (row.metric.key, cell.model) for table in tables for row in table.rows for cell in row.cells if cell.number
    }
    assert cells == {(metric, model) for metric, models in card.items() for model in models}
    fidelity = next(group for group in shown if group.key == "fidelity")
    assert fidelity.models == ("teacher", "cut", "healed", "trained", "student")


def test_parts_and_other_files_stand_in_tables_of_their_own() -> None:
    fidelity = next(group for group in groups(full_scorecard()) if group.key == "fidelity")
    assert [row.metric.key for row in fidelity.rows] == [
        f"fidelity.{one}" for one in ("kl", "top1", "top5", "perplexity")
    ]
    assert [table.key for table in fidelity.details] == ["category", "position", "quantisation"]
    category, _, quantisation = fidelity.details
    assert category.models == ("teacher", "cut", "student-Q8_0", "student")
    assert quantisation.models == ("teacher", "student-F16", "student-Q8_0", "student")
    assert [row.metric.key for row in quantisation.rows] == ["fidelity.kl", "fidelity.top1"]
    assert not quantisation.compares and all(len(row.marks) == 4 for row in quantisation.rows)


def test_what_nobody_measured_says_so() -> None:
    (naturalness,) = (group for group in groups(full_scorecard()) if group.key == "naturalness")
    cells = [cell for row in naturalness.rows for cell in row.cells]
    assert all(cell.number and cell.number.en == "not rated" and cell.n == "0" for cell in cells)
    assert not naturalness.compares and not any(row.marks for row in naturalness.rows)


def test_an_axis_may_have_ends_of_its_own() -> None:
    metric = metric_named("naturalness.mean")
    student = read_cell(reading(3.0, 2.0, 4.0, 9, ""), metric)
    assert student is not None
    (mark,) = marks(metric, {"student": student})
    assert (mark.low, mark.at, mark.high) == (25.0, 50.0, 75.0)


def test_a_part_of_a_known_metric_is_explained_by_it() -> None:
    part, whole = metric_named("fidelity.kl.office"), metric_named("fidelity.kl")
    assert part.meaning == whole.meaning and part.better == "lower" and part.title.en == "KL divergence · office"


def test_every_known_metric_is_explained_in_both_languages() -> None:
    for metric in METRICS:
        assert metric.better and metric.title.en != metric.title.zh and metric.meaning.en != metric.meaning.zh


def test_axes() -> None:
    metric = metric_named("speed.first_token_ms")
    places = marks(metric, readings(scorecard(), metric))
    assert [mark.model for mark in places] == ["teacher", "student"]
    assert all(0 <= mark.low <= mark.at <= mark.high <= 100 for mark in places)
    assert places[0].at / places[1].at == pytest.approx(343.2 / 164.8, rel=1e-3)
    assert (
        position(1.0, 100.0, True) == 0 and position(10.0, 100.0, True) == 50 and position(math.inf, 1.0, True) == 100
    )
    assert position(2.0, 1.0, False) == 100 and position(-1.0, 1.0, False) == 0 and position(math.nan, 1.0, False) == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1.184, "1.18"), (343.2, "343"), (99.99, "100"), (9.999, "10.0"), (12345.6, "12,346"),
        (0.0061, "0.00610"), (-2.5, "−2.50"), (0.000012, "1.2e-05"), (math.inf, "∞"), (-math.inf, "−∞"),
        (math.nan, "NaN"),
    ],
)  # fmt: skip
def test_three_digits(value: float, text: str) -> None:
    assert rounded(value) == text


def test_quantities() -> None:
    assert number(0.5234, "share").en == "52.3%"
    assert quantity(28.9, "tokens/s").en == "28.9 tokens/s" and quantity(28.9, "tokens/s").zh == "28.9 词元/秒"
    assert quantity(3.0, "J").en == "3.00 J" and quantity(None, "J").en == "not measured"
    assert [duration(one).en for one in (1.44, 59.99, 602, 7325)] == ["1.4 s", "1 min 0 s", "10 min 2 s", "2 h 2 min"]
    assert [megabytes(one).en for one in (0.02, 85.36, 301.2, 2100)] == ["20.0 kB", "85.4 MB", "301 MB", "2.10 GB"]


def test_anything_of_a_report_has_words() -> None:
    value = {"train": 160, "x": [0.7, 1.23456], "none": None, "empty": {}, "tied": True}
    names = {"train": Words("train", "训练")}
    assert anything(value, names) == (
        "train 160, x (0.7, 1.23), none –, tied yes",
        "训练 160，x （0.7，1.23），none –，tied 是",
    )
    assert anything(list(range(60)), {}).en.endswith("47, 12 more") and anything([], {}).en == "–"


def test_folders_are_not_told() -> None:
    value = {"texts": ["/home/me/a.txt", "b/c.txt"], "n": 1}
    assert without_folders(value) == {"texts": ["a.txt", "b/c.txt"], "n": 1}


def test_ticks_are_round_and_within() -> None:
    assert nice_ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert nice_ticks(0, 1.7, 4) == [0, 0.5, 1.0, 1.5]
    assert nice_ticks(0, 0, 4) == [0]


def test_the_moving_mean_of_a_line_that_stands_still_is_that_line() -> None:
    assert moving_mean([2.0] * 9, 5) == [2.0] * 9
    assert moving_mean([1.0, 2.0, 6.0], 3) == [1.5, 3.0, 4.0]
    assert moving_mean([1.0, 5.0], 1) == [1.0, 5.0]


def test_curves_survive_what_cannot_be_drawn() -> None:
    assert panels([]) == []
    steps = [{"step": one, "forward_kl": loss} for one, loss in enumerate((2.0, math.nan, 1.0), 1)]
    (panel,) = panels(steps)
    assert panel.across.en == "steps" and panel.curves[0].raw == "M33.33 3.85L100.00 51.92"
    (empty,) = panels([{"step": 1, "forward_kl": math.nan}])
    assert empty.curves == ()


def test_ticks_carry_no_noise() -> None:
    assert [tidy(one, "share").en for one in (0.0, 0.25, 1.0, 0.005)] == ["0%", "25%", "100%", "0.5%"]
    assert [tidy(one, "ms").en for one in (0.0, 5.0, 48.76, 1000.0, 12_300.0)] == ["0", "5", "48.8", "1,000", "12,300"]


def test_why_there_is_no_value_is_told_once() -> None:
    why = reading(None, None, None, 0, "share") | {"note": "this machine cannot confine programs"}
    plain = reading(None, None, None, 0, "share") | {"note": "not measured"}
    (code,) = groups({"code.runs": {"teacher": plain, "student": why}})
    teacher, student = code.rows[0].cells
    assert (student.number, student.note) == (NOT_MEASURED, "this machine cannot confine programs")
    assert (teacher.number, teacher.note) == (NOT_MEASURED, "")


def test_sets_of_others_are_not_called_categories() -> None:
    card = {f"{key}.{part}": {"student": 0.5} for key, part in (("code.runs", "mine"), ("fidelity.kl", "office"))}
    headings = {group.key: group.details[0].title.en for group in groups(card)}
    assert headings == {"code": "By question set", "fidelity": "By category"}
