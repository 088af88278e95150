"""Failures: in which order, and how many.

In:  entries made by hand.
Out: pass or fail.
Does not know: files, HTML.
"""

from __future__ import annotations

from finished_run import failures

from potstill.report.reading import SHOWN, failure_kinds, language_of


def test_no_failures() -> None:
    assert failure_kinds([]) == []


def test_kinds_are_counted_and_cut() -> None:
    code, commonsense = failure_kinds(failures())
    assert (code.title.en, code.total, code.lost, code.rest) == ("Code", 3, 2, 0)
    assert (commonsense.total, len(commonsense.shown), commonsense.rest) == (26, SHOWN, 6)


def test_what_the_teacher_had_right_comes_first() -> None:
    code = failure_kinds(failures())[0]
    assert [one.id for one in code.shown] == ["code-task-02", "code-task-03", "code-task-01"]
    assert [(model, right) for _, model, right, _ in code.shown[0].answers] == [("teacher", True), ("student", False)]
    assert code.shown[0].code and not failure_kinds(failures())[1].shown[0].code


def test_an_entry_without_its_texts_is_still_counted() -> None:
    (kind,) = failure_kinds([{"kind": "mine", "student": None}])
    assert kind.title.en == "mine" and kind.total == 1 and kind.lost == 0
    assert kind.shown[0].question == "" and [text for *_, text in kind.shown[0].answers] == ["", ""]


def test_the_language_of_a_text() -> None:
    assert language_of("为什么？") == "zh-Hans" and language_of("why?") == ""
