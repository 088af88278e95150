"""Hand-made extremes through the whole marking: the scores come out as they must."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from potstill.evaluate.code import CodeResult, code_tasks
from potstill.evaluate.commonsense import LETTERS, commonsense_questions, spread
from potstill.evaluate.exam import OURS, Exam, Sheet
from potstill.evaluate.marking import mark, run_programs
from potstill.evaluate.replies import Written
from potstill.evaluate.sandbox import Limits, confinement
from potstill.evaluate.scorecard import Scorecard
from potstill.evaluate.stability import stability_questions
from potstill.progress import Silent

QUESTIONS = spread(commonsense_questions(), 40)
EXAM = Exam({OURS: code_tasks()[:4]}, {OURS: QUESTIONS}, QUESTIONS, stability_questions()[:3], [])
LIMITS = Limits(5.0, 15.0, 400, 16, 16, 256)


def says(text: str, ended: bool = True) -> Sheet:
    """A model that says the same to everything, and finds every choice equally likely."""
    reply = Written(text, ended, len(text))
    return Sheet(
        programs={OURS: [reply] * len(EXAM.tasks[OURS])},
        likelihoods={OURS: [[-1.0 * len(choice.encode()) for choice in one.choices] for one in QUESTIONS]},
        letters=[reply] * len(QUESTIONS),
        stability=[[reply] * 4 for _ in EXAM.stability],
        samples=[],
    )


KNOWS = Sheet(
    programs={OURS: [Written(f"```python\n{task.solution}```", True, 9) for task in EXAM.tasks[OURS]]},
    likelihoods={
        OURS: [[0.0 if place == one.answer else -9.0 for place in range(len(one.choices))] for one in QUESTIONS]
    },
    letters=[Written(LETTERS[one.answer], True, 1) for one in QUESTIONS],
    stability=[[Written(f"第{place}个答案说的是同一件事情，没有什么不同。", True, 20)] * 4 for place in range(3)],
    samples=[],
)
SHEETS = {
    "teacher": KNOWS,
    "copy": replace(KNOWS),
    "always A": says("A"),
    "one token": says("的" * 90, ended=False),
    "empty": says(""),
}


@pytest.fixture(scope="module")
def card() -> Scorecard:
    walls = confinement()
    with Silent().task("", None, "") as task:
        models = run_programs(EXAM, SHEETS, LIMITS, task) if walls.available else {}
    made = Scorecard()
    mark(made, EXAM, SHEETS, {"why": "" if walls.available else walls.reason, "models": models}, 100, seed=0)
    return made


def value(card: Scorecard, metric: str, model: str) -> float | None:
    return card.measures[metric][model].value


def test_who_copies_the_teacher_scores_as_the_teacher(card: Scorecard) -> None:
    for metric, row in card.measures.items():
        if "teacher" in row:
            assert row["copy"] == row["teacher"], metric


@pytest.mark.skipif(not confinement().available, reason="programs cannot be confined here")
def test_programs(card: Scorecard) -> None:
    assert value(card, "code.passes", "teacher") == value(card, "code.runs", "teacher") == 1.0
    assert value(card, "code.passes", "always A") == value(card, "code.runs", "always A") == 0.0  # no such name
    assert value(card, "code.runs", "empty") == 0.0


def test_choices(card: Scorecard) -> None:
    assert value(card, "commonsense.error", "teacher") == value(card, "commonsense.error_written", "teacher") == 0.0
    always = sum(one.answer != 0 for one in QUESTIONS) / len(QUESTIONS)
    assert value(card, "commonsense.error_written", "always A") == always == 0.75
    assert value(card, "commonsense.error", "chance") == pytest.approx(0.75)
    for model in ("empty", "one token"):
        assert value(card, "commonsense.error_written", model) == value(card, "commonsense.unreadable", model) == 1.0
    # a model that finds all equally likely has not chosen
    assert value(card, "commonsense.error", "always A") == 1.0


def test_stability_and_broken_answers(card: Scorecard) -> None:
    for model in ("teacher", "always A", "one token"):
        assert value(card, "stability.bleu4_variance", model) == pytest.approx(0.0, abs=1e-9), model
        assert value(card, "stability.similarity", model) == pytest.approx(1.0, abs=1e-5), model
    assert value(card, "answers.broken", "teacher") == 0.0
    assert value(card, "answers.looping", "one token") == value(card, "answers.broken", "one token") == 1.0
    assert value(card, "answers.empty", "empty") == value(card, "answers.broken", "empty") == 1.0
    assert value(card, "stability.ended", "one token") == 0.0 and value(card, "stability.ended", "teacher") == 1.0


def test_where_programs_cannot_be_confined_the_scorecard_says_why() -> None:
    made = Scorecard()
    mark(made, EXAM, {"teacher": KNOWS}, {"why": "no walls", "models": {}}, 100, seed=0)
    assert made.measures["code.runs"]["teacher"].value is None
    assert made.measures["code.passes"]["teacher"].note == "no walls"


def test_who_wrote_programs_alone_has_rows_of_those_alone() -> None:
    made = Scorecard()
    results = [asdict(CodeResult(task.id, "", True, False, "")) for task in EXAM.tasks[OURS]]
    graded = {"why": "", "models": {name: {OURS: results} for name in ("teacher", "student-code")}}
    mark(made, EXAM, {"teacher": KNOWS}, graded, 100, seed=0)
    rows = {metric: row["student-code"].value for metric, row in made.measures.items() if "student-code" in row}
    assert rows == {"code.runs": 1.0, "code.passes": 0.0}
