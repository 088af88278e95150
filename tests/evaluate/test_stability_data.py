"""The 20 stability questions: complete, a good mix at every size, short to answer, and asked nowhere else.

In:  the package's stability.jsonl, golden.jsonl, commonsense.jsonl and code_tasks.jsonl.
Out: pass or fail.
Does not know: models, answers, scores.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from itertools import combinations
from typing import Any

import pytest

from potstill.evaluate.stability import stability_questions
from potstill.prompts.overlap import containment, grams, jaccard

Row = dict[str, Any]

KINDS = {"everyday", "office", "language", "knowledge", "code", "social", "writing"}
SAYS_HOW_LONG = re.compile(r"[一两三半各]+句|句[话]?(以内|左右)|三言两语")
EXPIRES = re.compile(r"今年|去年|明年|目前|最近|最新|现任|现在|20\d\d|排名|股价|汇率")

cached_grams = cache(grams)


def read_lines(*parts: str) -> list[Row]:
    text = files("potstill").joinpath(*parts).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


QUESTIONS = read_lines("evaluate", "stability.jsonl")


def overlap(first: str, second: str) -> float:
    """Jaccard overlap, or half of how far the shorter is contained in the longer, whichever is more."""
    left, right = cached_grams(first), cached_grams(second)
    common = len(left & right)
    inside = max(containment(common, len(left), len(right)), containment(common, len(right), len(left)))
    return max(jaccard(common, len(left), len(right)), inside / 2)


def close_to(questions: Iterable[Row], others: dict[str, str]) -> list[tuple[str, str]]:
    return [
        (row["id"], name) for row in questions for name, text in others.items() if overlap(row["question"], text) > 0.2
    ]


def test_there_are_twenty_numbered_in_order_with_the_agreed_keys() -> None:
    assert [row["id"] for row in QUESTIONS] == [f"stability-{number:02d}" for number in range(1, 21)]
    assert all(list(row) == ["id", "kind", "question"] for row in QUESTIONS)
    assert all(row["question"] == row["question"].strip() != "" for row in QUESTIONS)
    assert {row["kind"] for row in QUESTIONS} == KINDS


def test_the_package_hands_them_out_as_they_lie() -> None:
    assert [(one.id, one.question) for one in stability_questions()] == [
        (row["id"], row["question"]) for row in QUESTIONS
    ]


def test_the_file_is_plain_utf8_without_escapes() -> None:
    text = files("potstill").joinpath("evaluate", "stability.jsonl").read_text(encoding="utf-8")
    assert text == "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS)


def test_the_first_eight_are_of_every_kind_and_the_first_two_differ() -> None:
    assert {row["kind"] for row in QUESTIONS[:8]} == KINDS
    assert QUESTIONS[0]["kind"] != QUESTIONS[1]["kind"]
    assert max(Counter(row["kind"] for row in QUESTIONS).values()) <= 4


def test_every_question_says_how_long_the_answer_should_be_each_in_its_own_words() -> None:
    assert [row["id"] for row in QUESTIONS if not SAYS_HOW_LONG.search(row["question"])] == []
    endings = Counter(re.split(r"[，。？！]", row["question"].rstrip("。？！"))[-1] for row in QUESTIONS)
    assert max(endings.values()) == 1


def test_every_question_is_short_chinese_that_does_not_expire() -> None:
    for row in QUESTIONS:
        assert 15 <= len(row["question"]) <= 50, row["id"]
        assert not EXPIRES.search(row["question"]), row["id"]
        assert sum("\u4e00" <= character <= "\u9fff" for character in row["question"]) >= 12, row["id"]


def test_no_two_questions_resemble_each_other() -> None:
    for first, second in combinations(QUESTIONS, 2):
        assert overlap(first["question"], second["question"]) <= 0.2, (first["id"], second["id"])


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        (("prompts", "golden.jsonl"), "text"),
        (("evaluate", "commonsense.jsonl"), "question"),
        (("evaluate", "code_tasks.jsonl"), "prompt"),
    ],
)
def test_no_question_resembles_a_prompt_that_is_used_elsewhere(parts: tuple[str, str], field: str) -> None:
    others = {row["id"]: row[field] + "".join(row.get("choices", [])) for row in read_lines(*parts)}
    assert len(others) >= 50
    assert close_to(QUESTIONS, others) == []


def test_the_comparison_would_notice_a_copy_and_a_question_inside_a_longer_one() -> None:
    copied = {
        "same": QUESTIONS[3]["question"],
        "longer": f"请先深呼吸。{QUESTIONS[3]['question']}然后再举三个别的成语，一一说明出处。",
    }
    assert close_to(QUESTIONS[3:4], copied) == [("stability-04", "same"), ("stability-04", "longer")]
