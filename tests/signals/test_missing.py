"""Tokens that the student lacks: their probability goes to the piece that the student begins them with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_store import some_examples, true_logits
from transformers import PreTrainedModel

from potstill.models.anatomy import head_weight
from potstill.progress import Silent
from potstill.run import write_json
from potstill.signals.collect import Source, collect_signals
from potstill.signals.formats import HiddenRows
from potstill.signals.missing import CHUNK, Missing, decode_begun, encode_begun
from potstill.signals.store import SignalStore, StoreFormat
from potstill.vocab.map import VocabMap

KEPT, FIRSTS = np.array([0, 2, 3, 6]), np.array([0, 1, 1, 2, 1, 1, 3, 2, -1])
"""Of nine teacher tokens four are kept; 1, 4, 5 and 7 are written in pieces; 8 is no text."""


def summed(logits: torch.Tensor) -> torch.Tensor:
    """[n, V] log-probabilities by adding up, token for token."""
    told = torch.from_numpy(FIRSTS >= 0)
    probabilities = logits[:, told].softmax(dim=-1)
    sums = torch.zeros(len(logits), len(KEPT)).index_add_(1, torch.from_numpy(FIRSTS)[told], probabilities)
    return sums.log()


def rows(states: torch.Tensor, head: torch.Tensor, most: int) -> HiddenRows:
    missing = Missing.of(head, VocabMap(KEPT, FIRSTS), most)
    return HiddenRows(states, head[torch.from_numpy(KEPT)], missing and missing.begun(states))


def test_all_that_is_missing_adds_up_to_its_first_pieces() -> None:
    torch.manual_seed(1)
    states, head = 3 * torch.randn(CHUNK + 5, 6), torch.randn(9, 6)
    found = rows(states, head, 99).logits(slice(None)).log_softmax(dim=-1)
    assert torch.allclose(found, summed(states @ head.T), atol=1e-5)
    part = rows(states, head, 99).logits(slice(2, 7)).log_softmax(dim=-1)
    assert torch.equal(part, found[2:7])


def test_the_likeliest_alone_come_close_and_none_is_what_was_there() -> None:
    torch.manual_seed(1)
    states, head = 3 * torch.randn(50, 6), torch.randn(9, 6)
    exact = summed(states @ head.T)
    off = [
        float((exact.exp() * (exact - rows(states, head, most).logits(slice(None)).log_softmax(dim=-1))).sum())
        for most in (0, 1, 3, 4)
    ]
    assert off == sorted(off, reverse=True) and off[0] > 10 * off[2] and off[3] == pytest.approx(0, abs=1e-3)
    assert rows(states, head, 0).begun is None
    assert Missing.of(head, VocabMap(np.arange(9), np.arange(9)), 8) is None  # nothing lacks


def test_the_disk_gives_back_what_was_told() -> None:
    torch.manual_seed(1)
    states, head = torch.randn(9, 6), torch.randn(9, 6)
    begun = rows(states, head, 3).begun
    assert begun is not None
    again = decode_begun(encode_begun(begun))
    assert torch.equal(again.firsts, begun.firsts) and torch.allclose(again.logits.float(), begun.logits, atol=0.01)


@pytest.mark.parametrize("kind", ["hidden", "topk"])
def test_a_store_tells_them_and_the_teacher_as_student_costs_nothing(
    tiny_model: PreTrainedModel, tmp_path: Path, kind: str
) -> None:
    """A student that has learnt to write the pieces has nothing left to learn; one that has not, has."""
    whole = head_weight(tiny_model).detach().clone()
    kept = np.arange(0, len(whole), 2)
    firsts = np.repeat(np.arange(len(kept)), 2)[: len(whole)]
    vocabulary = VocabMap(kept, firsts)
    form = StoreFormat(kind, "float16", 32, whole.shape[1], len(kept), (), (1.0,), "hash")
    source = Source(tiny_model, torch.from_numpy(kept), whole[kept], form, 40, 64)
    source = replace(source, missing=Missing.of(whole, vocabulary, len(whole)))
    save_file({"head": whole[kept]}, tmp_path / "head.safetensors")
    with Silent().task("", 1, "") as task:
        names = collect_signals(source, "train", some_examples(len(kept)), 3, tmp_path, task)
    write_json(tmp_path / "index.json", {"formats": {"train": vars(form)}, "shards": {"train": names}})
    store = SignalStore(tmp_path, "train")
    for index, example in enumerate(store.examples):
        logits = true_logits(tiny_model, replace(example, ids=kept[example.ids]))
        spelt = torch.zeros(len(logits), len(kept)).index_add_(1, torch.from_numpy(firsts), logits.softmax(dim=-1))
        learnt = store.rows_of([index]).divergence(spelt.log(), slice(None), 1.0)
        unlearnt = store.rows_of([index]).divergence(logits[:, kept], slice(None), 1.0)
        assert learnt.abs().max() < 2e-3 and unlearnt.mean() > 10 * learnt.abs().mean()
        if kind == "hidden":
            assert store.compare(index, spelt.log())[0].kl / example.rows < 2e-3
    assert len(store.rows_of([2, 0])) == store.examples[2].rows + store.examples[0].rows
