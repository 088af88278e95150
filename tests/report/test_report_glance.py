"""The picture of the whole scorecard: better is to the right, whatever the metric.

In:  readings made by hand.
Out: pass or fail.
Does not know: files, HTML.
"""

from __future__ import annotations

from finished_run import full_scorecard, reading

from potstill.report.glance import AXES, Glance, Line, glance
from potstill.report.metrics import METRICS


def seen(card: dict[str, dict[str, object]]) -> Glance:
    found = glance(card)
    assert found is not None
    return found


def only_line(card: dict[str, dict[str, object]]) -> Line:
    (part,) = seen(card).parts
    (line,) = part.lines
    return line


def test_nothing_measured_is_no_picture() -> None:
    assert glance({}) is None
    assert glance({"odd.thing": {"teacher": reading(1.0, None, None, 1, "")}}) is None


def test_axes_are_metrics_that_have_words() -> None:
    known = {metric.key for metric in METRICS}
    assert {key for _, keys in AXES for key in keys} <= known


def test_lower_is_better_runs_backwards() -> None:
    line = only_line({"commonsense.error": {"teacher": reading(0.2, 0.1, 0.4, 9, "share")}})
    assert (line.left.en, line.right.en) == ("100%", "0%")
    (lane,) = line.lanes
    assert (lane.mark.low, lane.mark.at, lane.mark.high) == (60.0, 80.0, 90.0)


def test_higher_is_better_runs_forwards() -> None:
    line = only_line({"code.runs": {"student": reading(0.2, 0.1, 0.4, 9, "share")}})
    assert (line.left.en, line.right.en) == ("0%", "100%")
    (lane,) = line.lanes
    assert (lane.mark.low, lane.mark.at, lane.mark.high) == (10.0, 20.0, 40.0)
    assert line.teacher.en == "not measured" and line.comparison is None


def test_the_better_of_two_is_to_the_right_on_every_axis() -> None:
    for part in seen(full_scorecard()).parts:
        for line in part.lines:
            places = {lane.kind: lane.mark.at for lane in line.lanes}
            if line.comparison and line.comparison.kind == "better":
                assert places["student"] > places["teacher"], line.metric.key
            if line.comparison and line.comparison.kind == "worse":
                assert places["student"] < places["teacher"], line.metric.key


def test_floors_are_drawn_and_stages_are_not() -> None:
    found = seen(full_scorecard())
    assert [name.en for name, _ in found.models] == ["Teacher", "Student", "SmolLM2 135M Instruct"]
    lines = {line.metric.key: line for part in found.parts for line in part.lines}
    assert found.chance and lines["commonsense.error"].floor == 25.0 and lines["code.runs"].floor is None
    assert [lane.kind for lane in lines["commonsense.error"].lanes] == ["teacher", "student", "other"]
    assert [lane.kind for lane in lines["fidelity.top1"].lanes] == ["teacher", "student"]


def test_nobody_rated() -> None:
    line = only_line({"naturalness.mean": {"student": reading(None, None, None, 0, "")}})
    assert line.student.en == "not rated" and line.lanes == () and (line.left.en, line.right.en) == ("1", "5")
