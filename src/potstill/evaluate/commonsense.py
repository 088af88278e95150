"""Commonsense: multiple-choice questions, scored by likelihood and by what a model writes.

In:  questions; log-likelihoods of their choices, or written replies.
Out: which choice a model takes; rows commonsense.* of a scorecard.
Does not know: models, where likelihoods and replies come from.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from potstill.evaluate.scorecard import Measure, Scorecard, proportion

LETTERS = "ABCDEFGH"
BLANK = "（ ）"


@dataclass(frozen=True)
class Question:
    """One question; `answer` is the place of the right one among `choices`, from 0."""

    id: str
    kind: str
    question: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class CommonsenseResult:
    """What a model finds likely.

    Args:
        log_likelihoods: of the choices' texts as the whole answer, in nats. chosen: place of the likeliest one, None
        where none is. answer: place of the right one.
    """

    id: str
    kind: str
    log_likelihoods: tuple[float, ...]
    chosen: int | None
    answer: int

    @classmethod
    def of(cls, question: Question, log_likelihoods: Sequence[float]) -> CommonsenseResult:
        """The result of one question. Raises: ValueError where there is not one log-likelihood a choice."""
        chosen = choose(question.choices, log_likelihoods)
        return cls(question.id, question.kind, tuple(log_likelihoods), chosen, question.answer)


def commonsense_questions() -> list[Question]:
    """The 200 questions that ship with potstill, 40 of each kind, in the file's order."""
    text = files("potstill.evaluate").joinpath("commonsense.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [Question(**row | {"choices": tuple(row["choices"])}) for row in rows]


def spread(questions: Sequence[Question], count: int) -> list[Question]:
    """At most `count` of the questions, evenly over kinds and places of the answer, in their order.

    Fewer are always among more. Questions of one kind and place come by the hash of their id: a fixed draw, since
    intervals assume that the questions are drawn.
    """
    kinds = list(dict.fromkeys(question.kind for question in questions))
    cells: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for place in sorted(range(len(questions)), key=lambda place: _draw(questions[place].id), reverse=True):
        cells[questions[place].kind, questions[place].answer].append(place)
    order = sorted(cells, key=lambda cell: (kinds.index(cell[0]), cell[1]))
    of_kind: Counter[str] = Counter()
    of_answer: Counter[int] = Counter()
    of_cell: Counter[tuple[str, int]] = Counter()
    chosen: list[int] = []
    while len(chosen) < min(count, len(questions)):
        filled = (cell for cell in order if cells[cell])
        cell = min(filled, key=lambda cell: (of_kind[cell[0]], of_answer[cell[1]], of_cell[cell]))
        chosen.append(cells[cell].pop())
        of_kind[cell[0]] += 1
        of_answer[cell[1]] += 1
        of_cell[cell] += 1
    return [questions[place] for place in sorted(chosen)]


def _draw(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def likelihood_prompt(question: Question) -> str:
    """What the user says before the choices' texts are compared as answers: none of them is shown."""
    if BLANK in question.question:
        return f"{question.question}\n请直接写出括号里该填的内容，不要解释。"
    return f"{question.question}\n请直接给出简短的答案，不要解释。"


def written_prompt(question: Question) -> str:
    """What the user says to have a letter written."""
    choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False))
    return f"{question.question}\n{choices}\n请只回答正确选项的字母，不要解释。"


def choose(choices: Sequence[str], log_likelihoods: Sequence[float]) -> int | None:
    """Place of the choice with the largest log-likelihood per UTF-8 byte of its text, None where there is no such one.

    Without the division, short choices would win for being short. Where two share the largest value (up to rounding),
    or nothing has a value, the model has not chosen, which counts as an error. Equal log-likelihoods of choices that
    differ in length are no such tie: the longest is the likeliest per byte.

    Args:
        choices: texts, none empty. log_likelihoods: of each, in nats; NaN counts as impossible.

    Raises: ValueError where the counts differ.
    Source: Gao 2021, "Multiple Choice Normalization in LM Evaluation" (byte-length normalised); acc_norm of
        lm-evaluation-harness divides by characters instead, which is the same for choices of Chinese characters alone.
    """
    rates = [
        -math.inf if math.isnan(total) else total / len(choice.encode())
        for choice, total in zip(choices, log_likelihoods, strict=True)
    ]
    best = max(rates)
    likeliest = [place for place, rate in enumerate(rates) if math.isclose(rate, best, rel_tol=1e-9)]
    return likeliest[0] if len(likeliest) == 1 else None


def read_choice(text: str, question: Question, ended: bool = True) -> int | None:
    """The choice that a written reply names, None where it names none or several, or was cut while it listed them all.

    In this order, the first that applies: a letter that opens the reply, unless the reply goes on to list others;
    a letter said to be the answer ("答案是B", "选 C"); the only letter; without any letter, the only choice whose text
    occurs (a single character: on its own). Letters inside words, the article "a", and what is said not to be the
    answer don't count.
    """
    if not ended and _begins_to_list(text, question.choices):
        return None
    letters = LETTERS[: len(question.choices)]
    shapes = _shapes(letters)
    reply = shapes.negated.sub("", _masked(_plain(text), question.choices))
    opening = shapes.opening.match(reply)
    if opening and not set(shapes.listed.findall(reply)) - {opening[1]}:
        return letters.index(opening[1])
    lower = shapes.lower_case.fullmatch(reply)
    said = {lower[1].upper()} if lower else {letter.upper() for letter in shapes.said.findall(reply)}
    if len(said) != 1:
        said = set(shapes.alone.findall(reply))
    if said:
        return letters.index(said.pop()) if len(said) == 1 else None
    places = {ord(mark) - ord(FIRST_MARK) for mark in shapes.mark.findall(reply)}
    return places.pop() if len(places) == 1 else None


def _begins_to_list(text: str, choices: Sequence[str]) -> bool:
    """Whether a reply that was cut has said nothing but the beginning of the list that it was asked about."""
    listed = "".join(f"{letter}{choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    said, whole = (re.sub(r"[\s.、:)]", "", _plain(one)) for one in (text, listed))
    return len(said) > 1 and whole.startswith(said)


FIRST_MARK = "\ue000"
"""Marks from here on (private use, no letters) stand for choices in a reply, so that a "C" in a choice is no letter."""


def _plain(text: str) -> str:
    """Full-width letters and signs as ASCII, without emphasis."""
    return re.sub(r"[*_`]", "", unicodedata.normalize("NFKC", text)).strip()


def _masked(reply: str, choices: Sequence[str]) -> str:
    """The reply with a mark for every choice's text; the longest first, since one may be part of another."""
    texts = [_plain(choice).rstrip("。.!?") or _plain(choice) for choice in choices]
    for place in sorted(range(len(texts)), key=lambda place: -len(texts[place])):
        text = texts[place]
        if not text or text in tuple(LETTERS[: len(choices)]):
            continue  # a blood group, say: as good as a letter
        before, after = _edges(text)
        pattern = r"\s*".join(map(re.escape, "".join(text.split())))
        reply = re.sub(before + pattern + after, chr(ord(FIRST_MARK) + place), reply)
    return reply


def _edges(text: str) -> tuple[str, str]:
    """What must not touch a choice's text: letters and digits of its own kind, and hardly anything one character."""
    if len(text) == 1:
        return r"(?:(?<!\w)|(?<=[填是选用为]))", r"(?!\w)"
    before = "(?<![A-Za-z0-9])" if text[0].isascii() and text[0].isalnum() else ""
    return before, "(?![A-Za-z0-9])" if text[-1].isascii() and text[-1].isalnum() else ""


@dataclass(frozen=True)
class _Shapes:
    """How letters are named in a reply that is plain and masked."""

    opening: re.Pattern[str]
    listed: re.Pattern[str]
    lower_case: re.Pattern[str]
    said: re.Pattern[str]
    alone: re.Pattern[str]
    negated: re.Pattern[str]
    mark: re.Pattern[str]


@cache
def _shapes(letters: str) -> _Shapes:
    upper, lower, both = f"[{letters}]", f"[{letters.lower()}]", f"[{letters}{letters.lower()}]"
    mark = f"[{FIRST_MARK}-{chr(ord(FIRST_MARK) + len(letters) - 1)}]"
    start, end = "(?<![A-Za-z0-9])", "(?![A-Za-z0-9'])"
    no_article = r"(?:(?<![Aa])|(?!\s+(?!(?:is|and|or|because)\b)[a-z]))"
    no_list = rf"(?!\s*(?:[,、/.;~-]|和|或|与|及|还是)*\s*{upper}{end})"
    words = r"(?:答案|选项|选择?|(?i:answer|option|choice))(?:应该?|应当|就|只能|最可能)?(?:是|为|选择?|(?i:\s+is\b))?"
    return _Shapes(
        opening=re.compile(rf"\W*({upper})(?=[^\S\n]*(?:[^\w\s]|\n|$)){no_article}{no_list}"),
        listed=re.compile(rf"{start}({upper})\s*[.、:)]"),
        lower_case=re.compile(rf"\W*({lower})\W*"),
        said=re.compile(rf"{words}[\s:(\[\"'“「【]*({both}){end}{no_article}{no_list}"),
        alone=re.compile(rf"{start}({upper}){end}{no_article}"),
        negated=re.compile(rf"(?:不是|不能?选|不应该?选|不该选|并非|排除|\bnot\b)\s*\(?(?:{upper}{end}|{mark})"),
        mark=re.compile(mark),
    )


def add_commonsense(card: Scorecard, model: str, results: Sequence[CommonsenseResult], suffix: str = "") -> None:
    """Rows commonsense.error and commonsense.error.<kind>; of somebody else's set, with a suffix, only the first."""
    card.add(f"commonsense.error{suffix}", model, _errors(results))
    if not suffix:
        for kind in dict.fromkeys(result.kind for result in results):
            card.add(f"commonsense.error.{kind}", model, _errors([result for result in results if result.kind == kind]))


def _errors(results: Sequence[CommonsenseResult]) -> Measure:
    return proportion(sum(result.chosen != result.answer for result in results), len(results))


def add_written(card: Scorecard, model: str, chosen: Sequence[int | None], questions: Sequence[Question]) -> None:
    """Rows commonsense.error_written, where no readable choice is an error, and commonsense.unreadable."""
    wrong = sum(place != question.answer for place, question in zip(chosen, questions, strict=True))
    card.add("commonsense.error_written", model, proportion(wrong, len(questions)))
    card.add("commonsense.unreadable", model, proportion(sum(place is None for place in chosen), len(questions)))


def add_chance(card: Scorecard, metric: str, questions: Sequence[Question]) -> None:
    """What guessing gets wrong, as model `chance`: computed, not drawn, hence without an interval.

    Args:
        metric: that it is beside. questions: those that the models answered; nothing is added for none.
    """
    if questions:
        wrong = 1 - sum(1 / len(question.choices) for question in questions) / len(questions)
        card.add(metric, "chance", Measure(wrong, len(questions), None, None, "share"))
