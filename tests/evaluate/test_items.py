"""Items: their sums give the scorecard's values, for every measure that is made of items."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from potstill.evaluate.code import CodeTask
from potstill.evaluate.commonsense import Question
from potstill.evaluate.exam import Exam, Sheet
from potstill.evaluate.fidelity import add_fidelity
from potstill.evaluate.items import collect_items, statistic_of
from potstill.evaluate.marking import mark
from potstill.evaluate.replies import Written
from potstill.evaluate.scorecard import Scorecard
from potstill.evaluate.stability import StabilityQuestion
from potstill.fidelity import NOTHING, Fidelity

EXAM = Exam(
    tasks={"": [CodeTask(f"code-{number}", "写", (), "") for number in range(3)]},
    questions={"": [Question(f"q-{number}", "social", "问？", ("甲甲", "乙乙"), number % 2) for number in range(4)]},
    written=[Question(f"q-{number}", "social", "问？", ("甲甲", "乙乙"), number % 2) for number in range(3)],
    stability=[StabilityQuestion(f"s-{number}", f"为什么{number}？") for number in range(2)],
    samples=[],
)


def said(text: str, ended: bool = True) -> Written:
    return Written(text, ended, len(text))


SHEETS = {
    "student": Sheet(
        programs={"": [said("")] * 3},
        likelihoods={"": [[-1.0, -2.0], [-1.0, -2.0], [-3.0, -2.0], [-3.0, -2.0]]},
        letters=[said("A"), said("A"), said("我不知道")],
        stability=[[said("秋天早晚凉。"), said("秋天早晚凉，多穿。", False)], [said("好的好的好的好的。"), said("")]],
        samples=[],
    )
}
GRADED: dict[str, Any] = {
    "why": "",
    "models": {
        "student": {
            "": [
                {"id": f"code-{number}", "reply": "", "runs": number > 0, "passes": number > 1, "error": ""}
                for number in range(3)
            ]
        }
    },
}
STRETCHES = [
    [Fidelity(16, 8.0, 9, 12, 20.0), Fidelity(4, 3.0, 1, 2, 9.0), NOTHING],
    [Fidelity(10, 20.0, 2, 5, 31.0), NOTHING, NOTHING],
]
FOUND = {
    "ids": ["everyday-001", "office-002"],
    "models": {"student": [[asdict(part) for part in answer] for answer in STRETCHES]},
}


def embed(texts: list[str]) -> Any:
    return np.array([[float(len(text)), 1.0] for text in texts])


@pytest.fixture(scope="module")
def card() -> Scorecard:
    card = Scorecard()
    add_fidelity(card, "student", STRETCHES, ["everyday", "office"], 100, 0)
    mark(card, EXAM, SHEETS, GRADED, 100, 0)
    return card


def test_sums_of_items_give_the_scorecard(card: Scorecard) -> None:
    items = collect_items(FOUND, EXAM, SHEETS, GRADED)
    measured = {key for key, row in card.measures.items() if key.count(".") == 1 and "student" in row}
    faults = {"answers.empty", "answers.looping", "answers.wrong_language", "answers.leaking", "stream.garbled"}
    assert set(items) == measured - faults
    for metric, models in items.items():
        sums = np.array(list(models["student"].values())).sum(axis=0)
        value = card.measures[metric]["student"].value
        assert float(statistic_of(metric)(sums)) == pytest.approx(value), metric
        assert len(models["student"]) == card.measures[metric]["student"].n, metric


def test_items_are_named_by_what_was_asked() -> None:
    items = collect_items(FOUND, EXAM, SHEETS, GRADED, embed)
    assert items["fidelity.kl"]["student"] == {"everyday-001": [11.0, 20.0], "office-002": [20.0, 10.0]}
    assert items["code.passes"]["student"] == {"code-0": [0.0, 1.0], "code-1": [0.0, 1.0], "code-2": [1.0, 1.0]}
    assert items["commonsense.unreadable"]["student"]["q-2"] == [1.0, 1.0]
    assert items["stability.ended"]["student"] == {"s-0": [1.0, 2.0], "s-1": [2.0, 2.0]}


def test_what_was_not_measured_has_no_items() -> None:
    nothing = Exam({"": []}, {"": []}, [], [], [])
    blank = {"student": Sheet({"": []}, {"": []}, [], [], [])}
    assert collect_items({"ids": [], "models": {}}, nothing, blank, {"why": "no walls", "models": {}}) == {}
