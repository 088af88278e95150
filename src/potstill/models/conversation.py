"""A question and its answer as token ids, the same way in every stage and at chat time.

In:  a tokenizer with a chat template, the texts.
Out: token ids; where the answer starts.
Does not know: which vocabulary the tokenizer has, what the ids are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def messages(question: str) -> list[dict[str, str]]:
    """The conversation with one question, as chat templates want it."""
    return [{"role": "user", "content": question}]


def question_ids(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """Ids of the templated question, up to and including the opening of the assistant's turn."""
    return conversation_ids(tokenizer, messages(question))


def conversation_ids(tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, str]]) -> list[int]:
    """Ids of the templated conversation, up to and including the opening of the assistant's next turn."""
    return text_ids(tokenizer, templated(tokenizer, turns))


def templated(tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, str]]) -> str:
    """The conversation with everything its template adds. Errors are the template's own (jinja2)."""
    return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True))


def answer_ids(tokenizer: PreTrainedTokenizerBase, answer: str, ended: bool) -> list[int]:
    """Ids of the answer; with the end-of-turn token where the answer ended by itself."""
    end = [tokenizer.eos_token_id] if ended and isinstance(tokenizer.eos_token_id, int) else []
    return text_ids(tokenizer, answer) + end


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of plain text, nothing added."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
