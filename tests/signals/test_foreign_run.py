"""A student with a tokenizer of its own, through `vocab` and `signals`, up to a training batch and its fidelity."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_trainer import largest_difference, recipe_with, train
from transformers import AutoModelForCausalLM, PreTrainedModel

from potstill.answers.answer import save_answers
from potstill.distill import newest_checkpoint
from potstill.distill.batches import collate
from potstill.evaluate.fidelity import checkpoint_fidelity
from potstill.fidelity import add_up
from potstill.models.teacher import load_tokenizer
from potstill.problem import Problem
from potstill.progress import Silent
from potstill.recipe import validate_recipe
from potstill.run import Run, read_json, write_json
from potstill.signals import teach, verify
from potstill.signals.bound import BoundRows
from potstill.signals.store import SignalStore
from potstill.vocab import build_vocabulary
from potstill.vocab.binding import Binding
from potstill.vocab.foreign import foreign_base
from tiny import save_checkpoint, save_phi3
from tiny_foreign import some_answers


def make_run(place: Path, **vocab: object) -> Run:
    sections: dict[str, object] = {
        "vocab": {"binding": {"epochs": 1, "dimensions": 16, **vocab}},
        "signals": {"group": 32, "precision": "float16", "context": 256, "shard_answers": 5},
        "prune": {"base": str(place / "base")},
        "teacher": {"model": str(place / "teacher")},
        "distill": {"hidden_pairs": [{"student": 2, "teacher": 3}]},
    }
    return Run(place / "run", validate_recipe({"name": "t", **sections}, "test"), place / "home")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    pytest.importorskip("gensim")
    place = tmp_path_factory.mktemp("foreign")
    save_checkpoint(place / "teacher")
    save_phi3(place / "base", num_hidden_layers=2)
    made = make_run(place)
    for stage in ("answers", "vocab", "signals"):
        (made.folder / stage).mkdir(parents=True)
    answers = some_answers()
    held_out = [dataclasses.replace(one, prompt=dataclasses.replace(one.prompt, split="held-out")) for one in answers]
    save_answers(made.folder / "answers" / "answers.jsonl", [*answers[:10], *held_out[10:]])
    build_vocabulary(made, made.folder / "vocab")
    teach(made, made.folder / "signals")
    return made


def test_the_tokenizer_is_the_bases_own(run: Run) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (run.folder / "vocab" / name).read_bytes() == (run.folder.parent / "base" / name).read_bytes()
    assert not (run.folder / "vocab" / "vocab_map.safetensors").exists()


def test_what_is_covered_is_measured(run: Run) -> None:
    report = read_json(run.folder / "vocab" / "report.json")
    assert 0.3 < report["exact_probability"] <= report["kept_probability"] < 1.0
    assert 256 < report["exact_tokens"] <= report["bound_tokens"] < 600
    assert report["bound_tokens"] == sum(report.get(f"{how}_tokens", 0) for how in ("exact", "neighbour"))
    assert 0.3 < report["bound_uses"] <= 1.0
    assert 0.3 < report["shared_places"] < 1.0


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_rows_stand_where_both_begin_a_token(run: Run, split: str) -> None:
    store = SignalStore(run.folder / "signals", split)
    assert len(store) == (10 if split == "train" else 4)
    assert store.rows == sum(len(one.places) for one in store.examples) < sum(len(one.ids) for one in store.examples)
    rows = store.rows_of([2, 0])
    assert isinstance(rows, BoundRows)
    assert len(rows) == store.examples[2].rows + store.examples[0].rows
    assert len(store.layer_states([2, 0], 3)) == len(rows)
    batch = collate(store.examples, [2, 0])
    flat = batch["input_ids"].flatten()
    assert torch.equal(flat[batch["rows"] + 1], batch["labels"])
    assert len(batch["labels"]) == len(rows)


def test_the_rows_are_what_the_teacher_says_there(run: Run) -> None:
    """Recomputed from text alone: the teacher's own words so far, and its probability of the next token."""
    store = SignalStore(run.folder / "signals", "train")
    teacher = AutoModelForCausalLM.from_pretrained(run.folder.parent / "teacher", dtype="float32")
    ours, theirs = load_tokenizer(run.folder / "vocab"), load_tokenizer(run.folder.parent / "teacher")
    answer = some_answers()[6]
    question = theirs.apply_chat_template(
        [{"role": "user", "content": answer.prompt.text}], tokenize=False, add_generation_prompt=True
    )
    with torch.no_grad():
        ids = theirs(question + answer.text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        p = teacher(ids).logits[0].softmax(dim=-1)
    example, binding = store.examples[6], Binding.load(run.folder / "vocab" / "binding.jsonl")
    student_ids, uses = np.unique(binding.student_of[binding.student_of >= 0], return_counts=True)
    alone = student_ids[uses == 1]  # bound to one teacher token each
    read = [int(np.flatnonzero(binding.student_of == index)[0]) for index in alone]
    q = store.teacher_logits(6).exp()
    said = [theirs.decode(ids[0, : place + 1]) for place in range(ids.shape[1])]
    for row, place in enumerate(example.places[:-1]):
        before = ours.decode(example.ids[example.start : example.start + place])
        # The teacher was read in bfloat16 where this machine is fastest at that.
        torch.testing.assert_close(q[row, alone], p[said.index(question + before), read], atol=3e-3, rtol=0.1)


def test_verify_reads_the_teachers_own_ids_again(run: Run) -> None:
    found = verify(run, 40)
    assert found["positions"] >= 40
    assert found["mean_kl"] < 0.01


def test_fidelity_across_vocabularies(run: Run) -> None:
    store = SignalStore(run.folder / "signals", "held-out")
    itself = add_up(store.compare(0, store.teacher_logits(0)))
    assert itself.positions == store.examples[0].rows
    assert itself.kl == pytest.approx(0.0, abs=1e-3)
    assert itself.top1 == itself.positions
    with Silent().task("", 1, "") as task:
        answers = checkpoint_fidelity(store, [0, 1], run.folder.parent / "base", task)
    whole = add_up(answers[0])
    assert whole.positions == itself.positions
    assert whole.kl > 0.1
    everything = torch.randn(len(store.examples[0].ids) - store.examples[0].start, store.form.vocabulary)
    at_rows = everything[store.examples[0].places]
    assert store.compare(0, everything) == store.compare(0, at_rows)


def test_a_student_with_a_tokenizer_of_its_own_learns_killed_or_not(run: Run, tmp_path: Path) -> None:
    store = SignalStore(run.folder / "signals", "train")
    recipe = recipe_with(epochs=4.0, batch_tokens=200, checkpoint_seconds=1e-6, **{
        "hidden_pairs": [{"student": 1, "teacher": 3}],
    })  # fmt: skip

    def student() -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(run.folder.parent / "base", dtype=torch.float32)

    whole, killed = student(), tmp_path / "killed"
    lines = train(whole, store, tmp_path / "whole", recipe)
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"] and {"forward_kl", "hidden_1_3"} <= set(lines[0])
    train(student(), store, killed, recipe, stop=3)
    checkpoint = newest_checkpoint(killed)
    assert checkpoint is not None
    resumed = student()
    again = train(resumed, store, killed, recipe, resume=checkpoint)
    assert [line["loss"] for line in again] == pytest.approx([line["loss"] for line in lines], rel=1e-5)
    assert largest_difference(resumed, whole) < 1e-6


def test_what_cannot_be_told_across_vocabularies_is_refused(run: Run) -> None:
    for settings in ({"format": "topk"}, {}):
        pairs = [] if settings else [{"student": 1, "teacher": 1, "weight": 1.0}]
        recipe = run.recipe.model_dump(mode="json")
        recipe["signals"] |= settings
        recipe["distill"]["attention_pairs"] = pairs
        other = Run(run.folder, validate_recipe(recipe, "test"), run.home)
        with pytest.raises(Problem, match="tokenizer of its own"):
            verify(other, 10)


def test_answers_that_leave_no_room_are_told_in_words(run: Run, tmp_path: Path) -> None:
    short = run.recipe.model_dump(mode="json")
    short["signals"]["context"] = 64
    small = Run(tmp_path / "run", validate_recipe(short, "test"), run.home)
    (small.folder / "answers").mkdir(parents=True)
    long = [
        dataclasses.replace(one, prompt=dataclasses.replace(one.prompt, text="今天天气 " * 90))
        for one in some_answers()
    ]
    save_answers(small.folder / "answers" / "answers.jsonl", long)
    (small.folder / "vocab").mkdir()
    with pytest.raises(Problem, match=r"no answer fits into signals.context"):
        build_vocabulary(small, small.folder / "vocab")


def test_a_base_that_speaks_the_teachers_language_is_not_foreign(tmp_path: Path, run: Run) -> None:
    place = run.folder.parent
    assert foreign_base(run, place / "teacher") == (place / "base").resolve()
    save_checkpoint(tmp_path / "base", seed=1)
    assert foreign_base(make_run(tmp_path), place / "teacher") is None
    described = read_json(tmp_path / "base" / "tokenizer.json")
    added, model = described["added_tokens"], described["model"]
    model["vocab"] |= {token["content"]: token["id"] for token in added} | {"[PAD700]": 700}  # as a GGUF has them
    write_json(tmp_path / "base" / "tokenizer.json", described)
    assert foreign_base(make_run(tmp_path), place / "teacher") is None
    alone = Run(tmp_path, validate_recipe({"name": "t"}, "test"))
    assert foreign_base(alone, place / "teacher") is None
