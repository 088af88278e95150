"""What the gates say, in sentences.

In:  judged gates, as the report reads them.
Out: pass or fail.
Does not know: how a gate is judged, HTML.
"""

from __future__ import annotations

import pytest
from finished_run import gates

from potstill.recipe import GATES
from potstill.report.metrics import metric_named
from potstill.report.verdict import Ruling, rule_words, ruling


def ruled(*states: str) -> Ruling:
    found = ruling([gates()[0] | {"state": state} for state in states])
    assert found is not None
    return found


def test_no_gates_no_verdict() -> None:
    assert ruling([]) is None


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (("met", "met"), "ship"),
        (("met", "missed", "undecided"), "stop"),
        (("met", "undecided"), "undecided"),
        (("met", "not measured"), "undecided"),
        (("a state of tomorrow",), "undecided"),
    ],
)
def test_one_missed_gate_stops_and_all_must_be_met(states: tuple[str, ...], state: str) -> None:
    assert ruled(*states).state == state


def test_what_stands_in_the_way_comes_first() -> None:
    found = ruled("met", "undecided", "missed", "not measured")
    assert [line.state for line in found.lines] == ["missed", "undecided", "not measured", "met"]
    assert found.summary.en == "4 gates: 1 missed, 1 undecided, 1 not measured, 1 met"


@pytest.mark.parametrize(
    ("rule", "metric", "en", "zh"),
    [
        (">= 0.5", "code.runs", "at least 50%", "不低于 50%"),
        ("<= 320", "size.file_mb", "at most 320 MB", "不超过 320 MB"),
        (">= 20", "speed.decode_tok_s", "at least 20 tokens/s", "不低于 20 词元/秒"),
        ("<= 0.66 x teacher", "speed.first_token_ms", "at most 0.66 × the teacher's", "不超过教师的 0.66 倍"),
        (">= teacher", "code.runs", "at least the teacher's", "不低于教师"),
        (
            ">= teacher - 0.06", "code.runs",
            "at least the teacher's minus 6 points", "不低于教师减 6 个百分点",
        ),
        (
            "<= 1.1 x teacher + 20", "speed.first_token_ms",
            "at most 1.1 × the teacher's plus 20 ms", "不超过教师的 1.1 倍加 20 毫秒",
        ),
        ("a rule of tomorrow", "code.runs", "a rule of tomorrow", "a rule of tomorrow"),
    ],
)  # fmt: skip
def test_rules_as_people_say_them(rule: str, metric: str, en: str, zh: str) -> None:
    assert rule_words(rule, metric_named(metric), "") == (en, zh)


def test_every_default_gate_can_be_said() -> None:
    for key, rule in GATES.items():
        assert rule_words(rule, metric_named(key), "").en.startswith(("at most", "at least"))


def test_a_line_says_value_interval_and_bound() -> None:
    found = ruling(gates())
    assert found is not None
    lines = {line.metric.key: line for line in found.lines}
    first = lines["speed.first_token_ms"]
    assert first.measured.en == "165 ms (159 – 171)" and first.demand.en.endswith("that is 226 ms")
    assert lines["size.file_mb"].measured.en == "85.4 MB"
    assert lines["naturalness.mean"].measured.en == "not rated"


@pytest.mark.parametrize(
    ("metric", "more", "value", "said"),
    [
        ("commonsense.error", 120, 0.36, "About 120 more questions would decide it."),
        ("code.runs", 1, 0.5, "About 1 more task would decide it."),
        ("fidelity.top1", 10_000, 0.5, "10,000 more answers or even more would decide it."),
        ("odd.thing", 7, 0.5, "About 7 more samples would decide it."),
        ("code.runs", None, 0.82, "It lies on the bound, where no number of samples decides."),
        ("code.runs", None, 0.82 - 1e-16, "It lies on the bound, where no number of samples decides."),
        ("code.runs", None, 0.5, "Its error is not known, so that nothing decides yet."),
    ],
)
def test_how_many_more_would_decide(metric: str, more: int | None, value: float, said: str) -> None:
    gate = gates()[3] | {"state": "undecided", "metric": metric, "more": more, "value": value}
    found = ruling([gate])
    assert found is not None and found.lines[0].more.en == said


def test_a_decided_gate_asks_for_no_more() -> None:
    assert all(line.more.en == "" for line in ruled("met", "missed", "not measured").lines)
