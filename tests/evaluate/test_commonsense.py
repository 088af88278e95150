"""Commonsense scores: the extremes come out as they must; a written choice is read as a person would."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.evaluate.commonsense import (
    LETTERS,
    CommonsenseResult,
    Question,
    add_chance,
    add_commonsense,
    add_written,
    choose,
    commonsense_questions,
    likelihood_prompt,
    read_choice,
    spread,
    written_prompt,
)
from potstill.evaluate.scorecard import Scorecard

QUESTIONS = commonsense_questions()
KINDS = ("everyday", "social", "physical", "temporal", "language")
PARCEL = Question("p", "everyday", "想寄一箱特产，该去哪儿？", ("银行", "邮局", "茶馆", "影院"), 1)
VITAMIN = Question("v", "x", "橙子里多的是哪一种？", ("维生素C", "维生素 B", "水", "水分子"), 0)
BLOOD = Question("b", "x", "哪种血型？", ("A", "B", "AB", "O"), 2)
MINUTES = Question("m", "x", "要多久？", ("5分钟", "15分钟", "50分钟", "1小时。"), 1)


def value(card: Scorecard, metric: str, model: str = "m") -> float | None:
    return card.measures[metric][model].value


def weighed(questions: list[Question], favourite: int | None = None) -> list[CommonsenseResult]:
    """A model that finds one place likeliest whatever is asked (None: the right one)."""
    results = []
    for question in questions:
        liked = question.answer if favourite is None else favourite
        totals = [-1.0 * len(choice.encode()) for choice in question.choices]
        totals[liked] /= 2
        results.append(CommonsenseResult.of(question, totals))
    return results


def test_the_package_has_forty_questions_of_five_kinds_in_order() -> None:
    assert Counter(question.kind for question in QUESTIONS) == dict.fromkeys(KINDS, 40)
    assert (QUESTIONS[0].id, QUESTIONS[-1].id) == ("everyday-cs-01", "language-cs-40")
    assert QUESTIONS[0].choices[QUESTIONS[0].answer] == "扫帚"


@pytest.mark.parametrize("count", [4, 5, 10, 20, 37, 100, 199])
def test_any_number_is_even_over_kinds_and_answers(count: int) -> None:
    chosen = spread(QUESTIONS, count)
    kinds = Counter(question.kind for question in chosen)
    answers = Counter(question.answer for question in chosen)
    cells = Counter((question.kind, question.answer) for question in chosen)
    assert len(chosen) == len({question.id for question in chosen}) == count
    assert max(kinds.values()) - min(kinds[question.kind] for question in QUESTIONS) <= 1
    assert max(answers.values()) - min(answers[place] for place in range(4)) <= 1
    assert max(cells.values()) - min(cells[question.kind, question.answer] for question in QUESTIONS) <= 1


@given(st.integers(0, 200), st.integers(0, 200))
def test_fewer_questions_are_among_more_and_keep_their_order(first: int, second: int) -> None:
    fewer, more = spread(QUESTIONS, min(first, second)), spread(QUESTIONS, max(first, second))
    assert set(fewer) <= set(more)
    assert more == [question for question in QUESTIONS if question in more]


def test_spread_takes_what_there_is() -> None:
    uneven = [Question(str(place), "a" if place else "b", "?", ("x", "y"), 0) for place in range(5)]
    assert spread(uneven, 9) == uneven
    assert {question.kind for question in spread(uneven, 2)} == {"a", "b"}
    assert spread([], 3) == spread(QUESTIONS, 0) == []


def test_prompts_hold_the_question_and_only_the_written_one_its_choices() -> None:
    for question in QUESTIONS:
        for prompt in (likelihood_prompt(question), written_prompt(question)):
            assert prompt.startswith(question.question + "\n")
        shown = written_prompt(question).splitlines()
        assert shown[-5:-1] == [f"{letter}. {choice}" for letter, choice in zip("ABCD", question.choices, strict=True)]
        assert len(likelihood_prompt(question).splitlines()) == 2
    assert "括号" in likelihood_prompt(QUESTIONS[0]) and "括号" not in likelihood_prompt(PARCEL)


def test_likelihood_counts_per_byte() -> None:
    # 银行 is 6 bytes, ATM 3: -6/6 beats -4/3, though -4 is the larger sum.
    assert choose(("银行", "ATM"), (-6.0, -4.0)) == 0
    assert choose(("银行", "ATM"), (-6.0, -2.9)) == 1


@pytest.mark.parametrize("totals", [(-6.0, -3.0), (-math.inf, -math.inf), (math.nan, math.nan), (-0.6, -0.3)])
def test_a_tie_is_no_choice_and_an_error(totals: tuple[float, float]) -> None:
    question = Question("t", "x", "?", ("银行", "ATM"), 0)
    result = CommonsenseResult.of(question, totals)
    assert (result.chosen, result.answer, result.log_likelihoods) == (None, 0, totals)
    card = Scorecard()
    add_commonsense(card, "m", [result])
    assert value(card, "commonsense.error") == 1


def test_what_has_no_likelihood_loses() -> None:
    assert choose(("银行", "ATM"), (math.nan, -9.0)) == choose(("银行", "ATM"), (-math.inf, -9.0)) == 1
    with pytest.raises(ValueError, match="zip"):
        choose(("银行", "ATM"), (-1.0,))


def test_equal_sums_prefer_the_longest_choice_and_ours_have_none() -> None:
    assert choose(("银行", "ATM"), (-6.0, -6.0)) == 0
    assert {CommonsenseResult.of(question, [-8.0] * 4).chosen for question in QUESTIONS} == {None}


def test_a_model_that_draws_its_likelihoods_scores_like_chance() -> None:
    draw = random.Random(0)
    card = Scorecard()
    drawn = [[-draw.expovariate(1) * len(choice.encode()) for choice in one.choices] for one in QUESTIONS]
    add_commonsense(card, "m", [CommonsenseResult.of(*pair) for pair in zip(QUESTIONS, drawn, strict=True)])
    add_chance(card, "commonsense.error", QUESTIONS)
    measure, chance = card.measures["commonsense.error"]["m"], value(card, "commonsense.error", "chance")
    assert measure.low is not None and measure.high is not None and chance is not None
    assert measure.low <= chance <= measure.high


def test_equal_likelihood_a_byte_is_all_wrong() -> None:
    flat = [[-0.7 * len(choice.encode()) for choice in question.choices] for question in QUESTIONS]
    card = Scorecard()
    add_commonsense(card, "m", [CommonsenseResult.of(*pair) for pair in zip(QUESTIONS, flat, strict=True)])
    assert value(card, "commonsense.error") == 1


@pytest.mark.parametrize(("favourite", "error"), [(None, 0.0), (0, 0.75), (3, 0.75)])
def test_a_model_that_knows_and_one_that_loves_a_place(favourite: int | None, error: float) -> None:
    card = Scorecard()
    add_commonsense(card, "m", weighed(QUESTIONS, favourite))
    assert value(card, "commonsense.error") == error
    for kind in {question.kind for question in QUESTIONS}:
        measure = card.measures[f"commonsense.error.{kind}"]["m"]
        assert (measure.value, measure.n, measure.unit) == (error, 40, "share")


def test_a_set_of_others_has_one_row_under_its_name() -> None:
    card = Scorecard()
    add_commonsense(card, "m", weighed([PARCEL]), ".xcopa")
    add_chance(card, "commonsense.error.xcopa", [PARCEL])
    assert set(card.measures) == {"commonsense.error.xcopa"}
    assert (value(card, "commonsense.error.xcopa"), value(card, "commonsense.error.xcopa", "chance")) == (0, 0.75)


@pytest.mark.parametrize(
    ("reply", "error", "unreadable"),
    [("A", 0.75, 0), ("", 1, 1), ("的的的的的的的的", 1, 1), ("AAAAAAAAAA", 1, 1), ("A. B. C. D.", 1, 1)],
)
def test_written_extremes(reply: str, error: float, unreadable: float) -> None:
    card = Scorecard()
    add_written(card, "m", [read_choice(reply, question) for question in QUESTIONS], QUESTIONS)
    assert value(card, "commonsense.error_written") == error
    assert value(card, "commonsense.unreadable") == unreadable
    assert card.measures["commonsense.error_written"]["m"].n == 200


def test_a_model_that_copies_the_teacher_scores_as_the_teacher() -> None:
    replies = [
        ("B", "答案是C", "都对", question.choices[question.answer])[len(question.id) % 4] for question in QUESTIONS
    ]
    card = Scorecard()
    for model in ("teacher", "student"):
        add_written(card, model, [read_choice(*pair) for pair in zip(replies, QUESTIONS, strict=True)], QUESTIONS)
        add_commonsense(card, model, weighed(QUESTIONS, 2))
    for row in card.measures.values():
        assert row["teacher"] == row["student"]


def test_chance_is_a_fact_about_the_questions() -> None:
    card = Scorecard()
    add_chance(card, "a", QUESTIONS)
    add_chance(card, "b", [PARCEL, Question("c", "cause", "?", ("甲", "乙"), 0)])
    add_chance(card, "c", [])
    measure = card.measures["a"]["chance"]
    assert (measure.value, measure.n, measure.low, measure.high) == (0.75, 200, None, None)
    assert value(card, "b", "chance") == 1 - (1 / 4 + 1 / 2) / 2
    assert set(card.measures) == {"a", "b"}


READINGS = {
    "A": ["（A）", "A", "A。", "A is correct.", "A. 邮局"],  # a letter counts before a text
    "B": [
        "B", "B.", " b ", "b、邮局", "Ｂ", "Ⓑ", "“B”", "B）邮局", "B、邮局", "B 邮局", "B. 邮局", "B．邮局", "\n\nB\n",
        "<answer>B</answer>", "答案是B", "答案：B", "答案为 b。", "选B吧", "正确答案是：**B. 邮局**", "应该选（B）",
        "邮局（B）", "The answer is B.", "Answer: (b)", "应该去邮局，也就是B。", "B\n\n因为银行不寄东西。",
        "不是A，是B", "A. 银行\nB. 邮局\nC. 茶馆\nD. 影院\n答案：B", "A不对，C也不对，所以答案选B。",
        "邮局", "应该去邮局。", "去邮局寄，邮局什么都寄。", "不是银行，是邮局",
    ],
    "C": ["`C`", "【C】", "\\boxed{C}", "选 C。", "选择C", "选项C是对的"],
    "D": ["**D**", "(ｄ)", "我选D！", "正确的选项是 D，因为……", "Option D", "不选A，选D"],
    None: [
        "", "   ", "。", "不知道", "都可以", "E", "答案是E", "A、B", "A和B", "A、B都可以", "选A, B", "答案是B还是C",
        "A. 银行 B. 邮局 C. 茶馆 D. 影院", "A B C D", "A\nB\nC\nD", "ABCD", "银行和邮局", "不是银行", "不是A",
        "Apple", "BANK", "DNA 和 CD", "A4纸", "A cat sat on the mat.", "The answer is a cat.",
        "Because", "I'd say a bank",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("letter", "reply"), [(letter, reply) for letter in READINGS for reply in READINGS[letter]])
def test_a_written_choice(letter: str | None, reply: str) -> None:
    assert read_choice(reply, PARCEL) == (None if letter is None else LETTERS.index(letter))


@pytest.mark.parametrize(
    ("question", "reply", "place"),
    [
        (VITAMIN, "维生素C", 0), (VITAMIN, "答案是维生素C。", 0), (VITAMIN, "B. 维生素 B", 1), (VITAMIN, "维生素 B", 1),
        (VITAMIN, "水分子", 3), (VITAMIN, "是水。", 2),
        (VITAMIN, "水分子、水", None), (VITAMIN, "水水水", None), (VITAMIN, "“水”", 2),
        (BLOOD, "AB", 2), (BLOOD, "答案是C", 2), (BLOOD, "O", 3),
        (MINUTES, "15分钟", 1), (MINUTES, "大约15分钟吧", 1), (MINUTES, "25分钟", None), (MINUTES, "1小时", 3),
        (MINUTES, "1 小时。", 3), (MINUTES, "１５分钟", 1), (MINUTES, "A", 0),
    ],
)  # fmt: skip
def test_texts_that_hold_letters_digits_or_each_other(question: Question, reply: str, place: int | None) -> None:
    assert read_choice(reply, question) == place


def test_only_the_letters_of_the_choices_count() -> None:
    two = Question("x", "cause", "?", ("下雨了", "天晴了"), 0)
    assert read_choice("B", two) == 1
    assert read_choice("C", two) is None
    assert read_choice("答案是B，不是C", two) == 1


SHAPES = [
    "{}",
    "{}.",
    "{}。",
    "（{}）",
    "**{}**",
    "答案是{}",
    "答案：{}。",
    "选 {}。",
    "我选{}",
    "正确答案是 {}。",
    "选项{}",
]
spaces = st.text(" \n\t", max_size=3)


@given(st.sampled_from(QUESTIONS), st.integers(0, 3), st.sampled_from(SHAPES), spaces, spaces)
def test_every_letter_is_read_in_every_shape(
    question: Question, place: int, shape: str, before: str, after: str
) -> None:
    reply = before + shape.format(LETTERS[place]) + after
    assert read_choice(reply, question) == place
    wide = reply.replace(LETTERS[place], chr(ord(LETTERS[place]) + 0xFEE0))
    assert read_choice(wide, question) == place
    assert read_choice(f"{reply} {question.choices[place]}", question) == place


@given(st.sampled_from(QUESTIONS), st.integers(0, 3))
def test_every_choice_is_read_by_its_text(question: Question, place: int) -> None:
    assert read_choice(question.choices[place], question) == place
    assert read_choice(f"{LETTERS[place]}. {question.choices[place]}", question) == place


@given(st.sampled_from(QUESTIONS))
def test_a_list_of_all_choices_names_none(question: Question) -> None:
    listed = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False)]
    for reply in ("\n".join(listed), " ".join(listed), "、".join(question.choices)):
        assert read_choice(reply, question) is None


@given(st.sampled_from(QUESTIONS), st.integers(2, 40))
def test_a_list_that_was_cut_names_none(question: Question, length: int) -> None:
    """A model that repeats what it was asked has not chosen the first; one that ends there has."""
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False))
    assert read_choice(listed[: 2 + length], question, ended=False) is None
    assert read_choice(f"A. {question.choices[0]}", question, ended=True) == 0
    assert read_choice(f"B. {question.choices[1]}"[: 2 + length], question, ended=False) == 1


@given(st.lists(st.from_regex(r"[A-Za-z]{2,9}", fullmatch=True), max_size=8))
def test_letters_inside_words_name_nothing(words: list[str]) -> None:
    loose = [word for word in words if word.lower() not in ("is", "and", "or", "because", "not")]
    assert read_choice(" ".join(loose), PARCEL) is None


@given(st.text(max_size=60) | st.text("ABCDabcd .、：选答案是不银行邮局\n", max_size=30))
def test_any_text_names_a_choice_or_none(text: str) -> None:
    assert read_choice(text, PARCEL) in (None, 0, 1, 2, 3)
