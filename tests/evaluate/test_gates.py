"""Verdicts: decided by the whole interval, undecided with what would decide, never better for being worse."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from potstill.evaluate.gates import MOST_MORE, Interval, Verdict, as_rows, difference, exit_code, explain, judge
from potstill.evaluate.scorecard import Measure, fact, proportion, repeated, unmeasured
from potstill.recipe import GATES

ORDER = ["missed", "undecided", "met"]
KEYS = ["metric", "rule", "state", "value", "bound", "low", "high", "unit", "more"]


def measured(value: float, low: float, high: float, n: int = 10, unit: str = "tokens/s") -> Measure:
    return Measure(value, n, low, high, unit)


def one(rule: str, student: Measure | None, teacher: Measure | None = None, metric: str = "speed.x") -> Verdict:
    row = {name: measure for name, measure in (("student", student), ("teacher", teacher)) if measure is not None}
    (verdict,) = judge({metric: rule}, {metric: row})
    return verdict


# --- by hand


@pytest.mark.parametrize(
    ("rule", "value", "low", "high", "state"),
    [
        (">= 20", 25, 21, 29, "met"),
        (">= 20", 25, 20, 29, "met"),
        (">= 20", 25, 19, 29, "undecided"),
        (">= 20", 15, 11, 20, "undecided"),
        (">= 20", 15, 11, 19.9, "missed"),
        ("<= 20", 15, 11, 19.9, "met"),
        ("<= 20", 15, 11, 20, "met"),
        ("<= 20", 15, 11, 21, "undecided"),
        ("<= 20", 25, 20, 29, "undecided"),
        ("<= 20", 25, 21, 29, "missed"),
        (">= 20", 20, 20, 20, "met"),
        ("<= 20", 20, 20, 20, "met"),
        ("<= 20", 20.5, 20.5, 20.5, "missed"),
    ],
)
def test_a_bare_bound_is_compared_with_the_interval(
    rule: str, value: float, low: float, high: float, state: str
) -> None:
    verdict = one(rule, measured(value, low, high))
    assert (verdict.state, verdict.bound) == (state, 20.0)
    assert (verdict.value, verdict.low, verdict.high, verdict.unit) == (value, low, high, "tokens/s")
    assert (verdict.bound_low, verdict.bound_high) == (None, None)


@pytest.mark.parametrize(
    ("rule", "bound", "ends"),
    [
        (">= teacher", 0.8, (0.7, 0.9)),
        (">= teacher - 0.06", 0.74, (0.64, 0.84)),
        ("<= teacher + 0.04", 0.84, (0.74, 0.94)),
        ("<= 0.5 x teacher", 0.4, (0.35, 0.45)),
        ("<=1.5x teacher+0.1", 1.3, (1.15, 1.45)),
        ("  >= 2 x teacher - 0.5 ", 1.1, (0.9, 1.3)),
    ],
)
def test_the_teacher_sets_the_bound(rule: str, bound: float, ends: tuple[float, float]) -> None:
    verdict = one(rule, measured(0.5, 0.4, 0.6), measured(0.8, 0.7, 0.9))
    assert verdict.bound == pytest.approx(bound)
    assert (verdict.bound_low, verdict.bound_high) == pytest.approx(ends)


def test_the_teachers_doubt_is_part_of_the_margin() -> None:
    # Distances 3 and 4 make 5: the margin of 10 against 15 is -5, from -10 to 0.
    student, teacher = measured(10, 7, 13), measured(15, 11, 19)
    assert one(">= teacher", student, teacher).state == "undecided"
    assert one(">= teacher", student, measured(15.1, 11.1, 19.1)).state == "missed"
    assert one("<= teacher", student, teacher).state == "met"
    assert one("<= teacher", student, measured(14.9, 10.9, 18.9)).state == "undecided"


def test_a_factor_scales_the_teachers_doubt_too() -> None:
    # 0.5 x teacher is 15 with distances 4; unscaled ones (8) would leave it undecided.
    assert one("<= 0.5 x teacher", measured(10, 7, 13), measured(30, 22, 38)).state == "met"


def test_mover_keeps_skewed_ends_apart() -> None:
    first, second = Interval(0.4, 0.28, 0.54), Interval(0.8, 0.67, 0.88)
    found = difference(first, second)
    assert found.value == pytest.approx(-0.4)
    assert found.low == pytest.approx(-0.4 - math.sqrt(0.12**2 + 0.08**2))
    assert found.high == pytest.approx(-0.4 + math.sqrt(0.14**2 + 0.13**2))


def test_mover_of_wilsons_intervals_is_newcombes_tenth_method() -> None:
    # Newcombe 1998 (Statistics in Medicine 17:873), table II, example (a): 56/70 against 48/80.
    first, second = proportion(56, 70), proportion(48, 80)
    assert first.value is not None and second.value is not None
    found = difference(Interval(first.value, first.low, first.high), Interval(second.value, second.low, second.high))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_an_estimate_outside_of_its_interval_does_not_widen_the_other_side() -> None:
    found = difference(Interval(5.0, 6.0, 8.0), Interval(1.0, 1.0, 1.0))
    assert (found.value, found.low, found.high) == (4.0, 4.0, 7.0)


def test_rounding_is_not_a_miss() -> None:
    exact = measured(0.2, 0.2, 0.2, unit="share")
    assert 0.3 - 0.1 < 0.2
    assert one("<= teacher - 0.1", exact, measured(0.3, 0.3, 0.3)).state == "met"
    assert one(">= 0.2", measured(0.3 - 0.1, 0.3 - 0.1, 0.3 - 0.1)).state == "met"


# --- what has no interval, or no value


def test_a_size_is_a_fact_and_a_single_timing_is_not() -> None:
    assert one("<= 320", fact(320, "MB"), metric="size.file_mb").state == "met"
    assert one("<= 320", fact(320.1, "MB"), metric="size.file_mb").state == "missed"
    assert one("<= 0.5 x teacher", fact(100, "MB"), fact(200, "MB"), metric="size.file_mb").state == "met"
    single = one(">= 20", Measure(1000.0, 1, None, None, "tokens/s"), metric="speed.decode_tok_s")
    assert (single.state, single.more) == ("undecided", None)
    assert "each model needs at least two" in explain(single)


def test_a_teacher_of_unknown_error_leaves_its_gate_undecided() -> None:
    teacher = Measure(10.0, 1, None, None, "ms")
    assert one("<= teacher", measured(1, 1, 1), teacher).state == "undecided"
    assert one("<= 5", measured(1, 1, 1), teacher).state == "met"


@pytest.mark.parametrize("student", [None, unmeasured("share"), measured(math.nan, 0, 1), measured(math.inf, 0, 1)])
def test_an_absent_student_is_not_measured(student: Measure | None) -> None:
    verdict = one(">= 0.2", student)
    assert (verdict.state, verdict.value, verdict.low, verdict.more) == ("not measured", None, None, None)
    assert explain(verdict) == "speed.x: not measured for student, where >= 0.2 is asked"


def test_an_absent_teacher_matters_only_to_rules_that_name_it() -> None:
    student = measured(0.5, 0.4, 0.6)
    verdict = one(">= teacher - 0.06", student, unmeasured("share"))
    assert (verdict.state, verdict.value, verdict.bound) == ("not measured", 0.5, None)
    assert explain(verdict) == "speed.x: not measured for teacher, where >= teacher - 0.06 is asked"
    assert one(">= teacher", student).state == "not measured"
    assert one(">= 0.2", student).state == "met"


def test_a_metric_that_nobody_knows_is_not_measured() -> None:
    (verdict,) = judge({"code.rnus": ">= teacher"}, {"code.runs": {"student": proportion(1, 2)}})
    assert verdict == Verdict("code.rnus", ">= teacher", "not measured", None, None, None, None, "", None)
    assert explain(verdict) == "code.rnus: not measured for student and teacher, where >= teacher is asked"


def test_an_interval_that_is_no_number_is_unknown() -> None:
    assert one(">= 20", measured(25, 21, math.inf)).state == "undecided"
    assert one(">= 20", measured(25, math.nan, 29)).state == "undecided"


def test_what_is_no_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="not a gate: '> 3'"):
        judge({"code.runs": "> 3"}, {})


# --- how many more


def test_how_many_more_by_hand() -> None:
    # 25 ± 10 from 10 samples, bound 20: the half-width must fall to 5, so 40 samples; strictly below it, one more.
    assert one(">= 20", measured(25, 15, 35), metric="code.x").more == 31
    assert one("<= 20", measured(25, 15, 35), metric="code.x").more == 31
    assert one(">= 20", measured(25, 21, 35), metric="code.x").more is None
    # Only the end that faces the bound counts.
    assert one(">= 20", measured(25, 15, 400), metric="code.x").more == 31


@pytest.mark.parametrize(("rounds", "more"), [([20.5, 23.5], 5), ([20.4, 22.0, 23.6], 2)])
def test_of_timings_fewer_more_decide_since_student_s_t_falls(rounds: list[float], more: int) -> None:
    assert one(">= 20", repeated(rounds, "tokens/s")).more == more


def test_on_the_bound_no_number_decides() -> None:
    verdict = one(">= 20", measured(20, 15, 25))
    assert (verdict.state, verdict.more) == ("undecided", None)
    assert explain(verdict).endswith("; the estimate lies on the bound, where no number of rounds decides")


def test_hopeless_numbers_are_capped() -> None:
    verdict = one(">= 20", measured(20.001, 10, 30))
    assert verdict.more == MOST_MORE
    assert explain(verdict).endswith(f"; {MOST_MORE} more rounds or even more would decide")
    assert one(">= 0", measured(1e-300, -1e200, 1e200)).more == MOST_MORE


def shrunk(measure: Measure, share: float) -> Measure:
    assert measure.value is not None and measure.low is not None and measure.high is not None
    value = measure.value
    return replace(measure, low=value - (value - measure.low) * share, high=value + (measure.high - value) * share)


measures = st.builds(
    lambda value, down, up, n: measured(value / 8, (value - down) / 8, (value + up) / 8, n),
    *(st.integers(0, 400), st.integers(0, 200), st.integers(0, 200), st.integers(2, 300)),
)
rules = st.sampled_from(
    [">= 20", "<= 20", ">= teacher", "<= teacher", ">= teacher - 4", "<= teacher + 4", "<= 0.66 x teacher"]
)


@given(rules, measures, measures)
def test_that_many_more_decide_and_hardly_fewer_do(rule: str, student: Measure, teacher: Measure) -> None:
    verdict = one(rule, student, teacher, "code.x")
    assume(verdict.more is not None and verdict.more < MOST_MORE)
    assert verdict.more is not None and verdict.state == "undecided" and verdict.more >= 1

    def after(more: int) -> str:
        share = math.sqrt(student.n / (student.n + more))
        return one(rule, shrunk(student, share), shrunk(teacher, share), "code.x").state

    assert after(verdict.more) != "undecided"
    assert verdict.more <= 2 or after(verdict.more - 2) == "undecided"


# --- what must hold for all


@given(rules, measures, measures, *[st.integers(0, 80)] * 3)
def test_a_better_student_is_never_judged_worse(
    rule: str, student: Measure, teacher: Measure, value: int, low: int, high: int
) -> None:
    assert student.value is not None and student.low is not None and student.high is not None
    sign = 1 if rule.startswith(">=") else -1
    ends = (student.value + sign * value / 8, student.low + sign * low / 8, student.high + sign * high / 8)
    assume(ends[1] <= ends[0] <= ends[2])
    better = replace(student, value=ends[0], low=ends[1], high=ends[2])
    before, after = (ORDER.index(one(rule, which, teacher).state) for which in (student, better))
    assert after >= before


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_one_more_right_answer_never_hurts(n: int, teacher_n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n - 1))
    teacher = proportion(data.draw(st.integers(0, teacher_n)), teacher_n)
    before, after = (
        ORDER.index(one(">= teacher - 0.06", proportion(count, n), teacher).state) for count in (right, right + 1)
    )
    assert after >= before


@given(
    st.sampled_from([">= teacher", "<= teacher", "<= 0.66 x teacher", ">= 1.5 x teacher"]),
    measures,
    measures,
    st.integers(-20, 20),
)
def test_the_unit_does_not_matter(rule: str, student: Measure, teacher: Measure, power: int) -> None:
    def scaled(measure: Measure) -> Measure:
        assert measure.value is not None and measure.low is not None and measure.high is not None
        scale = 2.0**power
        return replace(measure, value=measure.value * scale, low=measure.low * scale, high=measure.high * scale)

    first, second = one(rule, student, teacher), one(rule, scaled(student), scaled(teacher))
    assert (first.state, first.more) == (second.state, second.more)


@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from([">=", "<="]))
def test_without_width_the_numbers_decide(student: int, teacher: int, sign: str) -> None:
    holds = student >= teacher if sign == ">=" else student <= teacher
    verdict = one(f"{sign} teacher", measured(student, student, student), measured(teacher, teacher, teacher))
    assert verdict.state == ("met" if holds else "missed")


# --- the whole list


def scorecard() -> dict[str, Mapping[str, Measure]]:
    return {
        "speed.first_token_ms": {"student": measured(170, 160, 180, unit="ms"), "teacher": measured(350, 340, 360)},
        "speed.decode_tok_s": {"student": measured(58, 55, 60)},
        "size.file_mb": {"student": fact(85.3, "MB"), "teacher": fact(491.4, "MB")},
        "code.runs": {"student": proportion(40, 50), "teacher": proportion(30, 50)},
        "commonsense.error": {"student": proportion(60, 200), "teacher": proportion(100, 200)},
    }


def test_every_default_gate_can_be_met() -> None:
    verdicts = judge(GATES, scorecard())
    assert [verdict.metric for verdict in verdicts] == list(GATES)
    assert [verdict.state for verdict in verdicts] == ["met"] * len(GATES)
    assert exit_code(verdicts) == 0


def test_every_default_gate_can_be_missed() -> None:
    worst = {metric: 0.0 if rule.startswith(">=") else 9e9 for metric, rule in GATES.items()}
    card = {
        metric: {**row, "student": measured(worst[metric], worst[metric], worst[metric])}
        for metric, row in scorecard().items()
    }
    assert [verdict.state for verdict in judge(GATES, card)] == ["missed"] * len(GATES)


@pytest.mark.parametrize(
    ("gates", "code"),
    [
        ({}, 0),
        ({"size.file_mb": "<= 320"}, 0),
        ({"size.file_mb": "<= 80", "nothing": "<= 1"}, 2),
        ({"nothing": "<= 1", "size.file_mb": "<= 320"}, 3),
        ({"speed.decode_tok_s": ">= 57"}, 3),
        ({"speed.decode_tok_s": ">= 57", "size.file_mb": "<= 80"}, 2),
    ],
)
def test_the_exit_code_is_that_of_the_worst(gates: dict[str, str], code: int) -> None:
    assert exit_code(judge(gates, scorecard())) == code


def test_the_rows_are_what_the_file_promises() -> None:
    rows = as_rows(judge({"size.file_mb": "<= 320", "nothing": ">= teacher"}, scorecard()))
    assert [list(row) for row in rows] == [KEYS, KEYS]
    assert list(rows[0].values()) == ["size.file_mb", "<= 320", "met", 85.3, 320.0, None, None, "MB", None]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


# --- words


def test_a_miss_says_what_was_asked() -> None:
    verdict = one(">= teacher - 0.06", proportion(20, 50), proportion(40, 50), "code.runs")
    assert explain(verdict) == "code.runs: missed, 0.40 [0.28–0.54] where >= teacher - 0.06 asks for 0.74"


def test_doubt_says_how_much_more_work_it_takes_and_how_sure_the_teacher_is() -> None:
    verdict = one(">= teacher - 0.06", proportion(30, 50), proportion(40, 50), "code.runs")
    assert explain(verdict) == (
        "code.runs: undecided, 0.60 [0.46–0.72] where >= teacher - 0.06 asks for 0.74 [0.61–0.83]; "
        f"about {verdict.more} more tasks would decide"
    )


@pytest.mark.parametrize(
    ("metric", "samples"),
    [
        ("speed.decode_tok_s", "23 more rounds"),
        ("memory.peak_mb", "23 more rounds"),
        ("stream.gap_p95_ms", "23 more rounds"),
        ("fidelity.kl.code", "31 more answers"),
        ("code.passes", "31 more tasks"),
        ("commonsense.error", "31 more questions"),
        ("stability.ended", "31 more questions"),
        ("answers.broken", "31 more questions"),
        ("naturalness.mean", "31 more rated conversations"),
        ("own.thing", "31 more samples"),
    ],
)
def test_samples_are_called_by_their_names(metric: str, samples: str) -> None:
    assert f"; about {samples} would decide" in explain(one(">= 20", measured(25, 15, 35), metric=metric))


def test_numbers_are_as_long_as_they_need_to_be() -> None:
    def line(value: float, rule: str, unit: str) -> str:
        return explain(one(rule, Measure(value, 3, value, value, unit), metric="speed.x"))

    assert line(58.04, ">= 20", "tokens/s") == "speed.x: met, 58.0 [58.0–58.0] tokens/s where >= 20 is asked"
    assert line(1234.5, "<= 20", "ms").startswith("speed.x: missed, 1234.5 [")
    assert line(0.0123, "<= 20", "nats").startswith("speed.x: met, 0.0123 [")
    assert line(0.7401, "<= 0.74", "share").startswith("speed.x: missed, 0.7401 [")
    assert line(320.04, "<= 320", "MB").startswith("speed.x: missed, 320.04 [")
    assert explain(one("<= 0", measured(0, 0, 0))).startswith("speed.x: met, 0.00 [0.00–0.00] tokens/s where")


def test_one_more_is_singular() -> None:
    verdict = one(">= 20", measured(25, 19.9, 35, n=4))
    assert verdict.more == 1
    assert explain(verdict).endswith("; about 1 more round would decide")
