"""Answers as a student with its own tokenizer has them and as the teacher reads them, side by side.

In:  two tokenizers, answers.
Out: for each answer an `Example` in the student's ids and one in the teacher's, with the places that both share.
Does not know: models, signals.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from potstill.answers import Answer
from potstill.models.conversation import end_of_turn, question_ids
from potstill.models.examples import Example
from potstill.problem import Problem
from potstill.vocab.alignment import align
from potstill.vocab.pieces import Piece, continuing_ids, pieces_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Speaker:
    """A tokenizer and what its tokens spell.

    Args:
        tokenizer: with a chat template. pieces: [V] what each id spells. end: id of the end of a turn.
    """

    tokenizer: PreTrainedTokenizerBase
    pieces: list[Piece]
    end: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, size: int | None = None) -> Speaker:
        """Spell a tokenizer; `size` where its model has more ids than it has tokens."""
        end = end_of_turn(tokenizer)
        if end is None:
            raise Problem(
                f"{tokenizer.name_or_path}: no token ends an answer", "Choose the instruct version of the model."
            )
        return cls(tokenizer, pieces_of(tokenizer, size), end)

    def cut(self, text: str) -> list[Piece]:
        """The pieces of a text."""
        return [self.pieces[index] for index in continuing_ids(self.tokenizer, text)]

    def example(self, answer: Answer, text: str, context: int) -> Example | None:
        """The templated question and `text`, at most `context` tokens; None where the question alone fills that."""
        question = question_ids(self.tokenizer, answer.prompt.text)
        ended = [self.end] if answer.finish != "length" else []
        ids = [*question, *continuing_ids(self.tokenizer, text), *ended][:context]
        if len(ids) <= len(question):
            return None
        return Example(
            answer.prompt.id,
            answer.prompt.category,
            np.array(ids, dtype=np.int64),
            len(question),
            given=answer.finish == "given",
        )


def pair(student: Speaker, teacher: Speaker, answers: Iterable[Answer], context: int) -> list[tuple[Example, Example]]:
    """Each answer in the student's and in the teacher's ids, with the places where both predict from the same bytes.

    The question is templated by each in its own way and only read. Answers are brought to NFC, which Qwen's tokenizer
    would do on its side alone.
    """
    pairs = []
    for answer in answers:
        text = unicodedata.normalize("NFC", answer.text)
        ours, theirs = student.example(answer, text, context), teacher.example(answer, text, context)
        if ours is None or theirs is None:
            continue
        found = align(
            [student.pieces[index] for index in ours.ids[ours.start :]],
            [teacher.pieces[index] for index in theirs.ids[theirs.start :]],
        )
        pairs.append((replace(ours, places=found.first), replace(theirs, places=found.second)))
    return pairs
