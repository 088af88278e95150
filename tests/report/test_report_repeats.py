"""Answers to the same question: lengths, endings, wordings.

In:  answers made by hand.
Out: pass or fail.
Does not know: files, HTML.
"""

from __future__ import annotations

from typing import Any

import pytest
from finished_run import stability

from potstill.report.repeats import BINS, length_chart, questions


def told(*answers: tuple[str, bool, int], question: str = "q") -> list[dict[str, Any]]:
    """One question with (text, ended, tokens) for answers."""
    return [
        {"question": question, "answers": [dict(zip(("text", "ended", "tokens"), one, strict=True)) for one in answers]}
    ]


def test_nothing_kept_is_no_picture() -> None:
    assert length_chart({}) is None and questions({}) == []
    assert length_chart({"student": [{"question": "q", "answers": []}]}) is None
    assert length_chart({"student": told(("", True, 0))}) is None


def test_columns_hold_every_answer_once() -> None:
    chart = length_chart({"student": told(("a", True, 96), ("b", False, 96), ("c", True, 4), ("d", True, 5))})
    assert chart is not None
    (row,) = chart.rows
    assert row.typical.en == "median 50 tokens, 4 – 96 tokens" and row.ended.en == "3 of 4 ended by themselves"
    # Three columns: 4 tokens and 5 tokens are told apart where a column is 4 tokens wide, both ends are inside.
    assert [(column.ended, column.cut) for column in row.columns] == [(100.0, 0.0), (50.0, 50.0)]
    assert row.columns[0].at == pytest.approx(100 / BINS, abs=0.01)
    assert row.columns[-1].at + row.columns[-1].width <= 100


def test_models_share_one_height_and_one_axis() -> None:
    chart = length_chart({"student": told(("a", True, 10), ("b", True, 90)), "teacher": told(("a", True, 96))})
    assert chart is not None
    teacher, student = chart.rows
    assert [column.ended for column in teacher.columns] == [100.0]
    assert [column.ended for column in student.columns] == [50.0, 50.0]
    assert all(0 <= tick.at <= 100 for tick in chart.ticks)


def test_answers_stand_side_by_side_under_their_question() -> None:
    found = questions(
        {"student": told(("一", True, 1), ("二", False, 9), ("一", True, 1)), "teacher": told(("三", True, 3))}
    )
    (question,) = found
    assert question.text == "q" and [one.kind for one in question.tries] == ["teacher", "student"]
    teacher, student = question.tries
    assert teacher.summary.en == "1 of 1 ended by themselves, 1 wording, 3 tokens"
    assert student.summary.en == "2 of 3 ended by themselves, 2 wordings, 1 – 9 tokens"
    assert [answer.note.en for answer in student.answers] == ["1 token", "9 tokens, cut off", "1 token"]


def test_a_question_that_one_model_was_not_asked() -> None:
    found = questions({"teacher": told(("a", True, 1)), "student": told(("b", True, 1), question="other")})
    assert [(one.text, len(one.tries)) for one in found] == [("q", 1), ("other", 1)]


def test_every_answer_is_shown() -> None:
    shown = [answer for question in questions(stability()) for one in question.tries for answer in one.answers]
    assert len(shown) == 3 * 3 * 10
