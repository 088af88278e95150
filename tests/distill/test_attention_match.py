"""Attention maps: stored as the teacher's own, matched to nothing lost."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from test_store import build_store, some_examples
from test_trainer import changed, recipe_with, train
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from potstill.distill.attention import AttentionMatch
from potstill.models.positions import predicting
from potstill.pipeline import stage_named
from potstill.problem import Problem
from potstill.recipe import AttentionPair
from potstill.signals.formats import decode_attention, encode_attention
from tiny import build_model

PAIR = {"student": 2, "teacher": 3}


def test_only_what_is_seen_is_kept_and_comes_back() -> None:
    maps = torch.rand(4, 9).tril(5 - 1)  # five tokens come before an answer of four
    values = encode_attention(3, maps)["attention-3"]
    assert values.shape == (5 + 6 + 7 + 8,)
    wide = decode_attention(values, rows=4, start=5, width=12)
    torch.testing.assert_close(wide[:, :9], maps, rtol=1e-3, atol=1e-3)
    assert not wide[:, 9:].any()


@pytest.mark.parametrize("family", ["qwen2", "phi3"])
def test_stored_maps_are_the_models_own(family: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = build_model(tiny_tokenizer, family=family)
    store = build_store(model, tmp_path / "s", "hidden", attention=(1, 3))
    for index, example in enumerate(some_examples(model.config.vocab_size)):
        with torch.no_grad():
            own = model(torch.from_numpy(example.ids)[None], output_attentions=True).attentions
        wanted = predicting(example.start, len(example.ids))
        for layer in (1, 3):
            expected = own[layer - 1][0].mean(dim=0)[wanted]
            found = store.attention([index], layer, len(example.ids))
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-4)
            torch.testing.assert_close(found.sum(dim=-1), torch.ones(example.rows), rtol=1e-3, atol=0)


def test_a_student_that_is_the_teacher_looks_where_it_looks(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden", attention=(3,))
    pairs = [{"student": 3, "teacher": 3}]
    lines = train(
        copy.deepcopy(tiny_model), store, tmp_path / "run", recipe_with(learning_rate=1e-9, attention_pairs=pairs)
    )
    assert all(0.0 <= line["attention_3_3"] + 1e-6 < 1e-4 for line in lines)
    assert all(line["forward_kl"] < 2e-4 for line in lines)


def test_maps_alone_can_be_learned(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden", attention=(3,))
    recipe = recipe_with(epochs=8.0, attention_pairs=[PAIR], losses={"forward_kl": 0.0})
    lines = train(changed(tiny_model, 1), store, tmp_path / "run", recipe)
    assert lines[-1]["attention_2_3"] < 0.6 * lines[0]["attention_2_3"]
    assert lines[0]["loss"] == pytest.approx(lines[0]["attention_2_3"], rel=1e-5)
    assert "forward_kl" not in lines[0]


def test_layers_that_do_not_exist_are_a_problem(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden", attention=(3,))
    with pytest.raises(Problem, match="student layer 5"):
        AttentionMatch.between(tiny_model, store, [AttentionPair(student=5, teacher=3)])
    with pytest.raises(Problem, match="teacher layer 2"):
        AttentionMatch.between(tiny_model, store, [AttentionPair(student=1, teacher=2)])


def test_signals_without_maps_are_stale_once_maps_are_wanted() -> None:
    asks = stage_named("signals").asks
    plain, wanted = recipe_with(), recipe_with(attention_pairs=[PAIR])
    assert asks(plain) != asks(wanted)
    assert asks(wanted) == asks(recipe_with(attention_pairs=[{**PAIR, "student": 1}]))
    assert len(asks(plain)) == 4  # as before there were maps: older signals stay fresh
