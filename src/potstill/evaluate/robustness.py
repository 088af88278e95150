"""Robustness of answers: which replies are broken, by rules that anyone can read and rerun.

In:  questions and what a model wrote.
Out: the faults of a reply; rows answers.broken, answers.empty, answers.looping, answers.wrong_language,
     answers.leaking.
Does not know: which model wrote, whether an answer is right, how much it repeats itself short of a loop.

A rule that is in doubt says nothing: a reply is only called broken where a reader would agree at a glance.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from potstill.evaluate.replies import Written
from potstill.evaluate.scorecard import Scorecard, proportion
from potstill.evaluate.stability import repeated_share
from potstill.scripts import CODE, FOREIGN, HAN, LATIN_WORD

FAULTS = ("empty", "looping", "wrong_language", "leaking", "garbled")
"""In the order in which a reader would name them. `garbled` has no row of its own: stream.garbled measures it."""


@dataclass(frozen=True)
class Cycle:
    """How long the same unit must be repeated back to back to be a loop.

    Args:
        turns: repetitions. characters: of all of them together. spoken: the unit must hold a letter or a digit.
    """

    turns: int
    characters: int
    spoken: bool


PROSE_CYCLE = Cycle(turns=4, characters=32, spoken=True)
"""Four turns, as the detectors of serving engines ask for, or three; "哈哈哈哈哈哈" and a refrain stay below 32."""
ANY_CYCLE = Cycle(turns=12, characters=200, spoken=False)
"""Code and the rules of tables repeat by right: a bar of 80 dashes, a row of zeros. Nobody wants 200 characters."""
LOOP_REPETITION = 0.5
"""Loops that count ("6. …", "7. …") or drift have no exact cycle, but few new 4-grams: here, half of what is said has
been said before, word for word. Sound answers stay far below: 0.23 at most among 1,600 to Chinese instructions."""
LOOP_UNITS = 60
"""Chinese characters and words; fewer say too little: four short parallel sentences repeat half of themselves."""
FOREIGN_LETTERS = 16
"""A name or a quoted word in another script has fewer."""
FOREIGN_SHARE = 0.3
"""Of all letters but Latin ones. Japanese is about half kana, half characters that Chinese has as well."""
LATIN_WORDS = 8
"""Words outside code before their language is judged: commands and names are shorter, an English refusal isn't."""
HAN_SHARE = 0.1
"""Chinese characters among characters and Latin words together: below this, an answer isn't in Chinese."""

_FENCE_LINE = re.compile(r"^[ \t]*```[\w+-]*[ \t]*$", re.MULTILINE)
_CODE_LINE = re.compile(r"^(?:[ \t]{4}|\t).*$|^.*(?:[{}\[\]=;<>|$\\_#]|\w\(|\s--?\w|/\w+/|:$).*$", re.MULTILINE)
"""Lines that look like code though nothing fences them in: not judged for their language."""
_LINK = re.compile(r"\w+://\S+")
_UNIT = re.compile("[\u3400-\u9fff]|[^\\W\\d_\u3400-\u9fff]+")
"""What repeats as a whole: a Chinese character, or a word (4-grams of letters would recur in any long English text)."""
_WANTS_ANOTHER_LANGUAGE = re.compile(
    "翻译|翻成|翻回|译[成为文]|[英日韩法德俄外][语文]|西班牙语|葡萄牙语|阿拉伯语|泰语|English"
)
_TOKENS = re.compile(r"<[|｜][\w▁]+[|｜]>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")
"""Marks of chat templates that mean nothing else, in code or out of it: ChatML and its kin, DeepSeek, Llama, Gemma."""
_TURNS = re.compile(
    r"</?s>|<(?:bos|eos|unk|pad)>|^#{2,3}[ ]?(?:Response|Instruction|Human|Assistant|User)\b"
    r"|^[ \t]*(?:user|assistant|system|human)[ \t]*(?:[:：]|$)",
    re.MULTILINE | re.IGNORECASE,
)
"""Marks that code may hold by right: an HTML tag, a key. Outside it they are a turn that the model made up."""


def faults(question: str, written: Written) -> frozenset[str]:
    """What is wrong with a reply at first sight: some of `FAULTS`, none for a sound one.

    - empty: no letter, digit or symbol; blanks, punctuation and empty fences say nothing.
    - looping: one unit back to back (`PROSE_CYCLE`; in code and in rules of tables `ANY_CYCLE`), or hardly a new
      4-gram in the prose (`LOOP_REPETITION`, digits left out because counting goes on in a loop).
    - wrong_language: a question in Chinese that asks for no other language, answered without Chinese or largely in
      a script that is neither Chinese nor Latin; code isn't judged.
    - leaking: a mark of a chat template, or a turn of the dialogue that the model made up, not named by the question.
    - garbled: U+FFFD. One at the end doesn't count where the limit cut the reply: it may have cut a character.

    Source: cycles: vLLM's RepetitionDetectionParams and its kin; repeated n-grams: Welleck et al. 2020,
    arXiv:1908.04319, and the filters of Rae et al. 2021, arXiv:2112.11446.
    """
    text = written.text if written.ended else written.text.rstrip("\ufffd")
    prose = CODE.sub("\n", text)
    found = {
        "empty": _is_empty(text),
        "looping": _is_looping(text, prose),
        "wrong_language": _is_in_another_language(question, prose),
        "leaking": _is_leaking(question, text, prose),
        "garbled": "\ufffd" in text,
    }
    return frozenset(name for name, is_so in found.items() if is_so)


def add_robustness(card: Scorecard, model: str, groups: Sequence[tuple[str, Sequence[Written]]]) -> None:
    """All rows of one model: shares of replies, with intervals as if each question had been asked once.

    Args:
        groups: questions, each with one reply or more.

    Raises: ValueError where there is no question, or one without a reply.
    """
    if not all(replies for _, replies in groups):
        raise ValueError("a question without a reply has no share of broken ones")
    found = [[faults(question, reply) for reply in replies] for question, replies in groups]
    broken = sum(sum(map(bool, replies)) / len(replies) for replies in found)
    card.add("answers.broken", model, proportion(broken, len(groups)))
    for fault in ("empty", "looping", "wrong_language", "leaking"):
        shares = [sum(fault in reply for reply in replies) / len(replies) for replies in found]
        card.add(f"answers.{fault}", model, proportion(sum(shares), len(groups)))


def _is_empty(text: str) -> bool:
    said = _FENCE_LINE.sub("", text)
    return not any(unicodedata.category(character)[0] in "LNS" and character != "`" for character in said)


def _is_looping(text: str, prose: str) -> bool:
    if _has_cycle(prose, PROSE_CYCLE) or _has_cycle(text, ANY_CYCLE):
        return True
    units = _UNIT.findall(prose)
    return len(units) >= LOOP_UNITS and repeated_share(units) >= LOOP_REPETITION


def _has_cycle(text: str, least: Cycle) -> bool:
    """Whether a stretch of the text equals itself shifted by one unit for long enough."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    for unit in range(1, len(codes) // least.turns + 1):
        breaks = np.flatnonzero(codes[unit:] != codes[:-unit])
        starts = np.concatenate([[0], breaks + 1])
        runs = np.concatenate([breaks, [len(codes) - unit]]) - starts
        for start in starts[runs + unit >= max(least.characters, least.turns * unit)]:
            if not least.spoken or any(map(str.isalnum, text[start : start + unit])):
                return True
    return False


def _is_in_another_language(question: str, prose: str) -> bool:
    asked = CODE.sub("\n", question)
    if len(HAN.findall(asked)) <= len(LATIN_WORD.findall(asked)) or _WANTS_ANOTHER_LANGUAGE.search(question):
        return False
    han, foreign = len(HAN.findall(prose)), len(FOREIGN.findall(prose))
    if foreign >= FOREIGN_LETTERS and foreign > FOREIGN_SHARE * (han + foreign):
        return True
    latin = len(LATIN_WORD.findall(_LINK.sub("", _CODE_LINE.sub("", prose))))
    return latin >= LATIN_WORDS and han < HAN_SHARE * (han + latin)


def _is_leaking(question: str, text: str, prose: str) -> bool:
    marks = [*_TOKENS.findall(text), *_TURNS.findall(prose)]
    asked = question.casefold()
    return any(mark.strip(" \t:：#").casefold() not in asked for mark in marks)
