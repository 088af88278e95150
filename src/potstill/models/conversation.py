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
    end = end_of_turn(tokenizer) if ended else None
    return text_ids(tokenizer, answer) + ([] if end is None else [end])


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template writes after an answer; else the tokenizer's own end, if it has one.

    Phi-3 ends a text and a turn with different tokens, and it is the turn that a chat waits for.
    """
    said = "0"
    conversation = [*messages("?"), {"role": "assistant", "content": said}]
    after = str(tokenizer.apply_chat_template(conversation, tokenize=False)).rpartition(said)[2]
    specials = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    ends = [index for index in text_ids(tokenizer, after) if index in specials]
    own = tokenizer.eos_token_id
    return ends[0] if ends else own if isinstance(own, int) else None


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of plain text, nothing added."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
