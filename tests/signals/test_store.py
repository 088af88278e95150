"""Signals: what is read is what is stored, in both formats, and damage is noticed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from potstill.fidelity import add_up
from potstill.models.anatomy import head_weight
from potstill.models.examples import Example, batches_by_length
from potstill.models.positions import predicted, predicting
from potstill.models.reading import LAST, read_states
from potstill.problem import Problem
from potstill.progress import Silent
from potstill.run import read_json, write_json
from potstill.signals.collect import Source, collect_signals
from potstill.signals.formats import dequantise_rows, quantise_rows
from potstill.signals.store import SignalStore, StoreFormat


def some_examples(vocabulary: int, count: int = 7, given: tuple = ()) -> list[Example]:
    random = np.random.default_rng(3)
    return [
        Example(f"e{i}", "test", random.integers(0, vocabulary, size=6 + 3 * i), start=2 + i % 3, given=i in given)
        for i in range(count)
    ]


def build_store(
    model: PreTrainedModel,
    folder: Path,
    kind: str,
    precision: str = "float16",
    k: int = 8,
    layers: tuple = (),
    attention: tuple = (),
    given: tuple = (),
    split: str = "train",
) -> SignalStore:
    folder.mkdir(exist_ok=True)
    head = head_weight(model).detach().clone()
    form = StoreFormat(kind, precision, 32, model.config.hidden_size, len(head), layers, (1.0, 2.0, 5.0), "hash")
    form = replace(form, attention=attention)
    source = Source(model, torch.arange(len(head)), head, form, k, batch_tokens=64)
    save_file({"head": head}, folder / "head.safetensors")
    with Silent().task("", 1, "") as task:
        names = collect_signals(source, split, some_examples(len(head), given=given), 3, folder, task)
    write_json(folder / "index.json", {"formats": {split: vars(source.form_of(split))}, "shards": {split: names}})
    return SignalStore(folder, split)


def true_logits(model: PreTrainedModel, example: Example) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.from_numpy(example.ids)[None]).logits[0]
    return logits[predicting(example.start, len(example.ids))]


@pytest.mark.parametrize("kind", ["hidden", "topk"])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_teacher_as_student_costs_nothing(
    tiny_model: PreTrainedModel, tmp_path: Path, kind: str, temperature: float
) -> None:
    store = build_store(tiny_model, tmp_path / "s", kind, "float16")
    for index, example in enumerate(store.examples):
        rows = store.rows_of([index])
        loss = rows.divergence(true_logits(tiny_model, example), slice(None), temperature)
        assert len(rows) == example.rows == len(loss)
        assert loss.abs().max() < 2e-4


def test_a_student_of_topk_signals_is_measured_against_all_logits(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "topk", split="held-out")
    for index, example in enumerate(store.examples):
        found = store.compare(index, true_logits(tiny_model, example))[0]
        assert found.positions == found.top1 == example.rows
        assert found.kl / example.rows < 2e-4


def test_a_store_of_the_first_layout_is_named_not_read(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden")
    shards = read_json(store.folder / "index.json")["shards"]
    write_json(store.folder / "index.json", {"format": vars(store.form) | {"version": 1}, "shards": shards})
    with pytest.raises(Problem, match="signals of format 1, this potstill reads 2"):
        SignalStore(store.folder, "train")


def test_the_stretches_of_an_answer_add_up_to_it(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden")
    for index, example in enumerate(store.examples):
        other = true_logits(tiny_model, example).flip(0)
        whole = store.compare(index, other)[0]
        parts = store.compare(index, other, (1, 3))
        assert [part.positions for part in parts] == [
            min(example.rows, 1), max(0, min(example.rows, 3) - 1), max(0, example.rows - 3)
        ]  # fmt: skip
        total = add_up(parts)
        assert (total.positions, total.top1, total.top5) == (whole.positions, whole.top1, whole.top5)
        assert total.kl == pytest.approx(whole.kl, rel=1e-5)


def test_examples_come_back_as_they_were(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden", "int8")
    for stored, original in zip(store.examples, some_examples(len(store.head)), strict=True):
        assert (stored.id, stored.category, stored.start) == (original.id, original.category, original.start)
        assert np.array_equal(stored.ids, original.ids)


def test_rows_of_several_examples_are_theirs_end_to_end(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden", layers=(2,))
    together = store.rows_of([5, 0]).hidden
    apart = torch.cat([store.rows_of([5]).hidden, store.rows_of([0]).hidden])
    assert torch.equal(together, apart)
    assert store.layer_states([5, 0], 2).shape == together.shape


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files are mapped")
@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_a_shard_is_mapped_only_while_it_is_read(tiny_model: PreTrainedModel, tmp_path: Path, precision: str) -> None:
    store = build_store(tiny_model, tmp_path / "mapped", "hidden", precision, layers=(2,))
    rows = store.rows_of(range(len(store)))
    assert len(rows.hidden) == store.rows and len(store.layer_states([0], 2))
    maps = Path("/proc/self/maps")
    assert "mapped/train-" not in maps.read_text()
    part = store._arrays(0, "hidden")
    assert "mapped/train-00000" in maps.read_text(), "the test would not see it"
    assert part and len(part["hidden"]) == store.examples[0].rows


def test_batching_does_not_change_what_is_read(tiny_model: PreTrainedModel) -> None:
    """Padding stands where causal attention cannot see it."""
    examples = some_examples(tiny_model.config.vocab_size)
    one_by_one = dict(read_states(tiny_model, examples, None, (2,), batch_tokens=1))
    at_once = dict(read_states(tiny_model, examples, None, (2,), batch_tokens=10_000))
    for index in range(len(examples)):
        for layer in (LAST, 2):
            torch.testing.assert_close(one_by_one[index][layer], at_once[index][layer], rtol=1e-4, atol=1e-5)


def test_middle_layers_are_the_models_own(tiny_model: PreTrainedModel) -> None:
    example = some_examples(tiny_model.config.vocab_size)[4]
    with torch.no_grad():
        hidden = tiny_model(torch.from_numpy(example.ids)[None], output_hidden_states=True).hidden_states
    states = dict(read_states(tiny_model, [example], None, (1, 3), 1000))[0]
    wanted = predicting(example.start, len(example.ids))
    for layer in (1, 3):
        torch.testing.assert_close(states[layer], hidden[layer][0, wanted])


def test_int8_is_within_half_a_step() -> None:
    values = torch.randn(20, 64) * torch.logspace(-3, 2, 20)[:, None]
    quantised, scales = quantise_rows(values, 32)
    error = (dequantise_rows(quantised, scales) - values).abs()
    step = scales.float().repeat_interleave(32, dim=1)
    assert (error <= 0.51 * step + 1e-6).all()


@pytest.mark.parametrize("damage", ["truncate", "other settings", "not a shard"])
def test_damaged_shards_are_named(tiny_model: PreTrainedModel, tmp_path: Path, damage: str) -> None:
    build_store(tiny_model, tmp_path / "s", "hidden")
    shard = tmp_path / "s" / "train-00001.safetensors"
    if damage == "truncate":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif damage == "not a shard":
        save_file({"x": torch.zeros(2)}, shard)
    else:
        build_store(tiny_model, tmp_path / "other", "hidden", "int8")
        shard.write_bytes((tmp_path / "other" / shard.name).read_bytes())
    with pytest.raises(Problem, match="train-00001"):
        SignalStore(tmp_path / "s", "train")


def test_shards_that_are_there_are_kept(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    build_store(tiny_model, tmp_path / "s", "hidden")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("train-*")}
    (tmp_path / "s" / "train-00001.safetensors").unlink()
    build_store(tiny_model, tmp_path / "s", "hidden")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("train-*")}
    assert {name for name in before if before[name] == after[name]} == {
        "train-00000.safetensors",
        "train-00002.safetensors",
    }


def test_batches_stay_within_their_budget_and_lose_nothing() -> None:
    lengths = [5, 90, 17, 33, 33, 8, 64, 1]
    batches = batches_by_length(lengths, 100)
    assert sorted(index for batch in batches for index in batch) == list(range(8))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= 100


def test_the_shift() -> None:
    assert predicting(3, 6) == slice(2, 5)
    assert predicted(3, 6) == slice(3, 6)
    with pytest.raises(ValueError, match="no position"):
        predicting(0, 6)
    with pytest.raises(ValueError, match="no position"):
        predicting(6, 6)


def test_given_answers_stay_marked_and_older_shards_mark_none(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    assert [one.given for one in build_store(tiny_model, folder, "hidden", given=(1, 5)).examples] == [
        number in (1, 5) for number in range(7)
    ]
    for path in folder.glob("train-*"):
        with safe_open(path, framework="pt") as file:
            described = file.metadata()
            arrays = {name: file.get_tensor(name) for name in list(file.keys())}
        form = json.loads(described["potstill.signals"])
        del form["attention"], described["given"]
        save_file(arrays, path, metadata=described | {"potstill.signals": json.dumps(form)})
    assert not any(one.given for one in SignalStore(folder, "train").examples)
