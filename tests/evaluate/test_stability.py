"""Stability: identities, hand-computed values, extremes."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from potstill.evaluate.replies import Written
from potstill.evaluate.scorecard import Measure, Scorecard
from potstill.evaluate.stability import (
    add_stability,
    pairwise_bleu,
    repetition,
    similarities,
)
from tiny import by_characters

ROWS = {
    "stability.bleu4_variance",
    "stability.bleu4",
    "stability.similarity",
    "stability.repetition",
    "stability.ended",
}
SEA = ["海水咸是因为河流把盐带进了海里。", "河流一路溶解矿物，盐分在海里越积越多。", "因为水会蒸发，盐却留了下来。"]
TALK = ["别急，慢慢来。", "一次考试说明不了什么，先吃饭。", "我陪你出去走走吧！"]


def written(texts: Sequence[str], ended: bool = True) -> list[Written]:
    return [Written(text, ended, len(text)) for text in texts]


def rows_of(groups: Sequence[Sequence[Written]], model: str = "student") -> dict[str, Measure]:
    card = Scorecard()
    add_stability(card, model, groups, 200, seed=3, embed=by_characters)
    return {metric: row[model] for metric, row in card.measures.items()}


def values_of(groups: Sequence[Sequence[Written]]) -> dict[str, float]:
    return {metric.removeprefix("stability."): measure.value or 0.0 for metric, measure in rows_of(groups).items()}


def test_every_row_is_there_with_its_count_and_an_interval_around_its_value() -> None:
    rows = rows_of([written(SEA), written(TALK), written([*SEA[:2], TALK[0]])])
    assert set(rows) == ROWS
    for measure in rows.values():
        assert measure.value is not None and measure.low is not None and measure.high is not None
        assert measure.n == 3
        assert measure.low <= measure.value <= measure.high


def test_a_model_that_always_says_the_same_is_perfectly_stable() -> None:
    found = values_of([written([text] * 4) for text in SEA])
    assert (found["bleu4"], found["bleu4_variance"]) == (1.0, 0.0)
    assert found["similarity"] == pytest.approx(1.0)
    assert found["ended"] == 1.0


def test_answers_that_share_nothing_have_no_bleu_and_no_similarity() -> None:
    found = values_of([written(["甲乙丙丁戊己", "子丑寅卯辰巳", "红橙黄绿青蓝"])])
    assert (found["bleu4"], found["bleu4_variance"]) == (0.0, 0.0)
    assert found["similarity"] == pytest.approx(0.0, abs=1e-12)


def test_a_model_that_repeats_one_token_repeats_itself_almost_always() -> None:
    found = values_of([written(["的" * 200] * 3, ended=False)])
    assert found["repetition"] == pytest.approx(1 - 1 / 197)
    assert found["ended"] == 0.0


def test_an_empty_model_is_stable_and_breaks_nothing() -> None:
    found = values_of([written(["", "", " \n"]), written([""] * 3, ended=False)])
    assert found == {"bleu4": 1.0, "bleu4_variance": 0.0, "similarity": 1.0, "repetition": 0.0, "ended": 0.5}


def test_an_empty_answer_is_unlike_every_other() -> None:
    assert pairwise_bleu(["海水是咸的。", ""]).tolist() == [0.0, 0.0]
    assert similarities([["海水是咸的。", "", "海水是咸的。"]], by_characters) == [pytest.approx(1 / 3)]


def test_the_encoder_is_asked_once_for_distinct_texts_in_order_and_never_for_empty_ones() -> None:
    asked: list[list[str]] = []

    def watched(texts: list[str]) -> NDArray[np.floating[Any]]:
        asked.append(texts)
        return by_characters(texts)

    similarities([["二", "一", ""], ["一", "一", "三"]], watched)
    assert asked == [sorted({"一", "二", "三"})]


def test_a_copy_of_the_teacher_scores_as_the_teacher() -> None:
    groups = [written(SEA), written(TALK)]
    assert rows_of(groups, "teacher") == rows_of([list(group) for group in groups], "copy")


def test_variance_by_hand() -> None:
    """Precisions 3/4, 2/3, 1/2 and, smoothed, 1/2: a BLEU of (1/8)^(1/4) in two of six ordered pairs, 0 in four."""
    score = (1 / 8) ** (1 / 4)
    texts = ["甲乙丙丁", "甲乙丙戊", "子丑寅卯"]
    assert sorted(pairwise_bleu(texts)) == pytest.approx([0, 0, 0, 0, score, score])
    found = values_of([written(texts), written(["好"] * 2)])
    assert found["bleu4"] == pytest.approx((score / 3 + 1) / 2)
    assert found["bleu4_variance"] == pytest.approx((2 * score**2 / 9 + 0) / 2)


def test_a_shorter_answer_pays_only_where_it_is_the_hypothesis() -> None:
    long_first = (1 / 2 * 1 / 3 * 1 / 4 * 1 / 4) ** (1 / 4)
    assert pairwise_bleu(["甲乙丙丁", "甲乙"]) == pytest.approx([long_first, math.exp(-1)])


def test_similarity_and_repetition_by_hand() -> None:
    # cosines 1/2, 1/√2 and 1/√2
    assert similarities([["甲乙", "乙丙", "乙"]], by_characters) == [pytest.approx((0.5 + math.sqrt(2)) / 3)]
    assert repetition("一二三四一二三四") == pytest.approx(1 / 5)
    assert repetition("一 二\n三四 一二\n\n三四") == pytest.approx(1 / 5)
    assert [repetition(text) for text in ("", "一二三", "一二三四", "一二三四五")] == [0.0] * 4


def test_long_and_short_groups_count_as_one_question_each_in_the_share_that_ended() -> None:
    found = rows_of([written(SEA[:2]), [*written(SEA, ended=False), Written("完", True, 1)]])
    assert found["stability.ended"].value == pytest.approx((1 + 1 / 4) / 2)
    assert found["stability.ended"].n == 2


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text("海水咸淡a b1.，", max_size=12), min_size=2, max_size=5))
def test_scores_are_sacrebleu_s_own(texts: list[str]) -> None:
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(tokenize="zh", effective_order=True)
    expected = []
    for place, text in enumerate(texts):
        for other in texts[place + 1 :]:
            for hypothesis, reference in ((text, other), (other, text)):
                nothing = not hypothesis.strip() and not reference.strip()
                expected.append(1.0 if nothing else bleu.sentence_score(hypothesis, [reference]).score / 100)
    assert pairwise_bleu(texts) == pytest.approx(expected)


def test_neither_the_order_of_answers_nor_that_of_questions_changes_a_value() -> None:
    groups = [written([*SEA, "", SEA[0]]), written(TALK), written([*TALK, *SEA])]
    expected = values_of(groups)
    shuffled = random.Random(5)
    for _ in range(5):
        mixed = [shuffled.sample(group, len(group)) for group in shuffled.sample(groups, len(groups))]
        assert values_of(mixed) == pytest.approx(expected)


def test_the_seed_decides_the_interval() -> None:
    groups = [written(SEA), written(TALK), written([*SEA, *TALK])]
    assert rows_of(groups) == rows_of(groups)


@pytest.mark.parametrize("groups", [[], [written(["一"])], [written(SEA), written([])]])
def test_a_question_without_two_answers_is_refused(groups: list[list[Written]]) -> None:
    with pytest.raises(ValueError, match="two answers"):
        add_stability(Scorecard(), "student", groups, 200, seed=0, embed=by_characters)
