"""The 200 commonsense questions: complete, balanced, and not to be guessed without reading them.

In:  the package's commonsense.jsonl and golden.jsonl.
Out: pass or fail.
Does not know: models, scores, whether an answer is true (that was read item by item).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from itertools import combinations, pairwise
from typing import Any

import pytest

from potstill.prompts.overlap import grams, jaccard

Question = dict[str, Any]
Preference = Callable[[Question, int], float]

KINDS = ["everyday", "social", "physical", "temporal", "language"]

cached_grams = cache(grams)


def read_lines(*parts: str) -> list[Question]:
    text = files("potstill").joinpath(*parts).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


QUESTIONS = read_lines("evaluate", "commonsense.jsonl")


def length(question: Question, place: int) -> float:
    return len(question["choices"][place])


def bytes_per_character(question: Question, place: int) -> float:
    """Digits and Latin letters give a choice away as surely as its length."""
    return len(question["choices"][place].encode()) / len(question["choices"][place])


def echo(question: Question, place: int) -> float:
    """Share of the choice's characters that the question contains."""
    characters = set(question["choices"][place])
    return len(characters & set(question["question"])) / len(characters)


def likeness(question: Question, place: int) -> float:
    """Characters the choice shares with the other three."""
    own = set(question["choices"][place])
    others = [set(choice) for other, choice in enumerate(question["choices"]) if other != place]
    return sum(len(own & other) for other in others)


def score(preference: Preference, sign: int) -> float:
    """Accuracy of always taking the choice preferred most (or least); equals share the point."""
    points = 0.0
    for question in QUESTIONS:
        values = [sign * preference(question, place) for place in range(4)]
        taken = [place for place in range(4) if values[place] == max(values)]
        points += (question["answer"] in taken) / len(taken)
    return points / len(QUESTIONS)


def similarity(first: str, second: str) -> float:
    """Jaccard overlap of the character 3-grams."""
    asked, added = cached_grams(first), cached_grams(second)
    return jaccard(len(asked & added), len(asked), len(added))


def with_choices(question: Question) -> str:
    return "".join([question["question"], *question["choices"]])


def test_every_line_has_exactly_the_agreed_keys_and_types() -> None:
    for question in QUESTIONS:
        assert list(question) == ["id", "kind", "question", "choices", "answer"]
        assert type(question["answer"]) is int
        assert all(isinstance(text, str) and text == text.strip() != "" for text in question["choices"])


def test_there_are_forty_questions_of_each_kind_numbered_in_order() -> None:
    expected = [f"{kind}-cs-{number:02d}" for kind in KINDS for number in range(1, 41)]
    assert [question["id"] for question in QUESTIONS] == expected
    assert all(question["id"].startswith(f"{question['kind']}-cs-") for question in QUESTIONS)


def test_the_file_is_plain_utf8_without_escapes() -> None:
    text = files("potstill").joinpath("evaluate", "commonsense.jsonl").read_text(encoding="utf-8")
    assert text == "".join(json.dumps(question, ensure_ascii=False) + "\n" for question in QUESTIONS)


def test_each_position_is_right_ten_times_in_each_kind() -> None:
    places = Counter((question["kind"], question["answer"]) for question in QUESTIONS)
    assert places == {(kind, place): 10 for kind in KINDS for place in range(4)}


def test_the_next_position_cannot_be_told_from_the_last_one() -> None:
    steps = Counter((after["answer"] - before["answer"]) % 4 for before, after in pairwise(QUESTIONS))
    assert max(steps.values()) / (len(QUESTIONS) - 1) <= 0.35


def test_every_question_has_four_different_choices_of_similar_length() -> None:
    for question in QUESTIONS:
        lengths = [len(choice) for choice in question["choices"]]
        assert len(set(question["choices"])) == 4, question["id"]
        assert max(lengths) - min(lengths) <= 2, question["id"]


@pytest.mark.parametrize("sign", [1, -1], ids=["most", "least"])
@pytest.mark.parametrize("preference", [length, bytes_per_character, echo, likeness])
def test_a_guess_without_understanding_scores_like_chance(preference: Preference, sign: int) -> None:
    assert 0.20 <= score(preference, sign) <= 0.32


def test_no_two_questions_are_nearly_the_same() -> None:
    for first, second in combinations(QUESTIONS, 2):
        assert similarity(first["question"], second["question"]) < 0.5, (first["id"], second["id"])


def test_no_question_resembles_a_training_or_evaluation_prompt() -> None:
    prompts = read_lines("prompts", "golden.jsonl")
    assert prompts
    for question in QUESTIONS:
        for prompt in prompts:
            for text in (question["question"], with_choices(question)):
                assert similarity(text, prompt["text"]) < 0.4, (question["id"], prompt["id"])
