"""Quality against size and latency: which points there are, and that their labels can be read.

In:  readings made by hand.
Out: pass or fail.
Does not know: files, HTML.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from finished_run import full_scorecard, reading, scorecard

from potstill.report.scatter import TALL, WIDE, plots


def card(**files: tuple[float, float]) -> dict[str, dict[str, Any]]:
    """file → (MB, top-1); `student_Q8_0` stands for `student-Q8_0`."""
    names = {name: name.replace("_", "-", 1) for name in files}
    return {
        "size.file_mb": {names[name]: reading(size, None, None, 1, "MB") for name, (size, _) in files.items()},
        "fidelity.top1": {names[name]: reading(top1, None, None, 9, "share") for name, (_, top1) in files.items()},
    }


def test_one_point_a_file_and_the_teacher() -> None:
    size, latency = plots(full_scorecard(), "Q4_0")
    named = ["Q4_0, shipped", "Q8_0", "F16", "Teacher"]
    assert [point.name.en for point in size.points] == [point.name.en for point in latency.points] == named
    assert size.points[0].told.en == "Student: 85.4 MB, 52.3%"
    assert size.points[-1].up.at == 100.0 and size.across.en == "File size (MB)"


def test_whiskers_are_the_intervals() -> None:
    latency = plots(full_scorecard(), "Q4_0")[1]
    student = latency.points[0]
    assert (student.up.low, student.up.high) == (50.5, 54.1)
    assert student.across.low / student.across.at == pytest.approx(158.9 / 164.8, rel=1e-3)


def test_no_picture_of_a_single_point_or_without_the_student() -> None:
    assert plots({}, "Q4_0") == []
    assert plots(card(student=(85.0, 0.5)), "Q4_0") == []
    assert plots(card(teacher=(491.0, 1.0), student_Q8_0=(160.0, 0.5)), "Q4_0") == []


def test_an_unmeasured_file_is_no_point() -> None:
    known = card(teacher=(491.0, 1.0), student=(85.0, 0.5), student_F16=(300.0, 0.5))
    known["fidelity.top1"]["student-F16"] = reading(None, None, None, 0, "share")
    (plot,) = plots(known, "Q4_0")
    assert len(plot.points) == 2


def test_labels_do_not_lie_on_each_other() -> None:
    close = card(teacher=(120.0, 0.55), student=(100.0, 0.5), student_Q8_0=(104.0, 0.51), student_F16=(108.0, 0.52))
    (plot,) = plots(close, "Q4_0")
    for one, other in combinations(plot.points, 2):
        apart = abs(one.label_at - other.label_at) >= TALL or abs(one.across.at - other.across.at) >= WIDE
        assert apart, (one.name, other.name)


def test_the_first_version_of_the_scorecard_has_two_points() -> None:
    size, _ = plots(scorecard(), "Q4_0")
    assert [point.kind for point in size.points] == ["student", "teacher"]
