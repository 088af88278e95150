"""Bulk: the template's conversation in, replies out, ended where the tokenizer's turns end."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from potstill.models.batch_writing import Written
from potstill.models.bulk import BulkWriter
from potstill.models.conversation import answer_ids, end_of_turn, messages, question_ids
from potstill.models.engine import Sampling

GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=20, seed=0, max_tokens=10, repeat_penalty=1.0)
QUESTIONS = ["今天天气很好", "hello", "请写一个函数", "a much longer question about the weather of today"]


def test_a_reply_is_what_the_model_says_behind_the_template(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    writer = BulkWriter(tiny_model, tiny_tokenizer)
    replies = dict(writer.batch([messages(question) for question in QUESTIONS], GREEDY))
    assert sorted(replies) == list(range(len(QUESTIONS)))
    for place, question in enumerate(QUESTIONS):
        ids = question_ids(tiny_tokenizer, question)
        ends = [tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id]
        generated = tiny_model.generate(
            torch.tensor([ids]), max_new_tokens=10, do_sample=False, eos_token_id=ends, pad_token_id=0
        )[0, len(ids) :]
        # What a cut leaves of a last character is left out.
        assert replies[place].text == tiny_tokenizer.decode(generated, skip_special_tokens=True).removesuffix("\ufffd")
        assert replies[place].tokens == len(generated)
        assert replies[place].prompt_tokens == len(ids) == writer.count_tokens(messages(question))


@pytest.mark.parametrize("end", ["eos_token", "pad_token"])
def test_a_turn_ends_with_either_end_token(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, end: str
) -> None:
    writer = BulkWriter(tiny_model, tiny_tokenizer)
    first = dict(writer.batch([messages("hello")], GREEDY))[0]
    token = tiny_tokenizer(first.text, add_special_tokens=False)["input_ids"][0]
    other = copy.deepcopy(tiny_tokenizer)
    setattr(other, end, tiny_tokenizer.convert_ids_to_tokens(token))
    ended = dict(BulkWriter(tiny_model, other).batch([messages("hello")], GREEDY))[0]
    assert (ended.text, ended.finish, ended.tokens) == ("", "stop", 1)


def test_a_turn_ends_where_the_template_ends_it(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Phi-3's `eos_token` ends a text, and its turns end otherwise."""
    other = copy.deepcopy(tiny_tokenizer)
    other.eos_token = other.pad_token
    first = dict(BulkWriter(tiny_model, other).batch([messages("hello")], GREEDY))[0]
    token = tiny_tokenizer(first.text, add_special_tokens=False)["input_ids"][0]
    other.add_special_tokens({"additional_special_tokens": [tiny_tokenizer.convert_ids_to_tokens(token)]})
    other.chat_template = other.chat_template.replace("<|im_end|>", tiny_tokenizer.convert_ids_to_tokens(token))
    assert end_of_turn(other) == token
    assert answer_ids(other, "hello", ended=True)[-1] == token
    text = str(tiny_tokenizer.apply_chat_template(messages("hello"), tokenize=False, add_generation_prompt=True))
    ended = dict(BulkWriter(tiny_model, other).batch([text], GREEDY))[0]
    assert (ended.text, ended.finish, ended.tokens) == ("", "stop", 1)


def test_plain_text_is_written_on(tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    text = str(tiny_tokenizer.apply_chat_template(messages("hello"), tokenize=False, add_generation_prompt=True))
    writer = BulkWriter(tiny_model, tiny_tokenizer)
    plain, templated = (dict(writer.batch([one], GREEDY))[0].text for one in (text, messages("hello")))
    assert plain == templated


def test_a_stop_text_ends_a_reply_where_it_comes_up(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    writer = BulkWriter(tiny_model, tiny_tokenizer)
    whole = dict(writer.batch([messages("hello")], GREEDY))[0]
    middle = len(whole.text) // 2
    for stop in (whole.text[middle], whole.text[middle : middle + 4]):
        cut = dict(writer.batch([messages("hello")], replace(GREEDY, stop=("never", stop))))[0]
        assert (cut.text, cut.finish) == (whole.text[: whole.text.index(stop)], "stop")
    assert dict(writer.batch([messages("hello")], replace(GREEDY, stop=("never",))))[0].text == whole.text


def test_nothing_is_written_behind_a_token_that_holds_the_stop_text(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    writer = BulkWriter(tiny_model, tiny_tokenizer)
    whole = dict(writer.batch([messages("hello")], GREEDY))[0]
    first = tiny_tokenizer.decode(tiny_tokenizer(whole.text, add_special_tokens=False)["input_ids"][0])
    assert dict(writer.batch([messages("hello")], replace(GREEDY, stop=(first,))))[0].tokens == 1


def test_a_character_that_was_cut_in_half_is_left_out(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    writer = BulkWriter(tiny_model, tiny_tokenizer)
    whole = tiny_tokenizer("ok 龘", add_special_tokens=False)["input_ids"]  # no token holds so rare a character
    assert writer._reply(Written(whole, True), 1, 0.0, ()).text == "ok 龘"
    assert [writer._reply(Written(whole[:-1], ended), 1, 0.0, ()).text for ended in (False, True)] == [
        "ok ",
        "ok \ufffd",
    ]
