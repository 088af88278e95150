"""Many texts at once: each is what it would be alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from potstill.models import batch_writing
from potstill.models.batch_writing import CACHED_TOKENS, MOST_TEXTS, Written, batches, write_together
from potstill.models.engine import Sampling

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15, 16], [17, 18], [19, 20, 21, 22]] * 8
GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=20, seed=0, max_tokens=12, repeat_penalty=1.0)
USUAL = replace(GREEDY, temperature=1.0, top_p=0.9, repeat_penalty=1.1)


def together(
    model: PreTrainedModel, prompts: list[list[int]], sampling: Sampling, ends: set[int], seeds: list[int]
) -> dict[int, Written]:
    return dict(write_together(model, prompts, sampling, seeds, ends))


def ends_of(model: PreTrainedModel) -> set[int]:
    """Tokens that come early in some texts and late or never in others."""
    texts = together(model, PROMPTS, USUAL, set(), list(range(len(PROMPTS))))
    return {texts[0].ids[2], texts[7].ids[5]}


@pytest.mark.parametrize("prompt", PROMPTS[:5])
def test_greedy_is_what_the_library_generates(tiny_model: PreTrainedModel, prompt: list[int]) -> None:
    generated = tiny_model.generate(
        torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    place = PROMPTS.index(prompt)
    text = together(tiny_model, PROMPTS, GREEDY, set(), [0] * len(PROMPTS))[place]
    assert text == Written(generated[0, len(prompt) :].tolist(), ended=False)


def test_in_company_each_text_is_what_it_is_alone(tiny_model: PreTrainedModel) -> None:
    ends, seeds = ends_of(tiny_model), list(range(len(PROMPTS)))
    all_of_them = together(tiny_model, PROMPTS, USUAL, ends, seeds)
    assert len(all_of_them) == len(PROMPTS)
    for place in range(0, len(PROMPTS), 7):
        alone = together(tiny_model, [PROMPTS[place]], USUAL, ends, [seeds[place]])
        assert alone[0] == all_of_them[place]


@pytest.mark.parametrize("tokens", [1, 24])
def test_prompts_read_a_few_at_a_time_are_prompts_read_at_once(
    tiny_model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    ends, seeds = ends_of(tiny_model), list(range(len(PROMPTS)))
    at_once = together(tiny_model, PROMPTS, USUAL, ends, seeds)
    monkeypatch.setattr(batch_writing, "READ_AT_ONCE", tokens)
    assert together(tiny_model, PROMPTS, USUAL, ends, seeds) == at_once


def test_texts_end_at_an_end_token_or_at_their_limit(tiny_model: PreTrainedModel) -> None:
    ends = ends_of(tiny_model)
    texts = together(tiny_model, PROMPTS, USUAL, ends, list(range(len(PROMPTS)))).values()
    assert {text.ended for text in texts} == {True, False}
    for text in texts:
        assert not ends & {*text.ids}
        assert len(text.ids) < USUAL.max_tokens if text.ended else len(text.ids) == USUAL.max_tokens


def test_seeds_tell_texts_of_the_same_prompt_apart(tiny_model: PreTrainedModel) -> None:
    texts = together(tiny_model, [[5, 6, 7]] * 3, USUAL, set(), [1, 2, 1])
    assert texts[0] == texts[2] != texts[1]


def test_batches_hold_every_prompt_once_and_fit_the_cache() -> None:
    lengths = [3, 900, 40, 41, 39, 7000, 5] * 90
    found = batches(lengths, most=320)
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or (longest + 320) * len(batch) <= CACHED_TOKENS
        assert len(batch) <= MOST_TEXTS


def test_a_prompt_larger_than_the_cache_is_written_alone() -> None:
    assert batches([CACHED_TOKENS + 1, 5], most=10)[0] == [0]
