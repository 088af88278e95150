"""Answers as sequences of token ids.

In:  answers, a tokenizer (the teacher's or the student's).
Out: `Example`s.
Does not know: models, storage.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from potstill.answers.answer import Answer
from potstill.models.conversation import answer_ids, question_ids
from potstill.models.examples import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenize(tokenizer: PreTrainedTokenizerBase, answers: Iterable[Answer], context: int) -> list[Example]:
    """Examples of at most `context` tokens; longer answers are cut, questions that fill the context are left out."""
    examples = []
    for answer in answers:
        question = question_ids(tokenizer, answer.prompt.text)
        ids = question + answer_ids(tokenizer, answer.text, ended=answer.finish != "length")
        ids = ids[:context]
        if len(ids) > len(question):
            examples.append(
                Example(
                    answer.prompt.id,
                    answer.prompt.category,
                    np.array(ids, dtype=np.int64),
                    len(question),
                    given=answer.finish == "given",
                )
            )
    return examples
