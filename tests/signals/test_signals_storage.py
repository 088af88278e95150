"""Signals in storage: another machine fetches what was read, reads the rest, and takes nothing for what it is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from listening import Listening
from potstill import machine
from potstill.answers import Answer
from potstill.answers.answer import save_answers
from potstill.recipe import validate_recipe
from potstill.run import Run, read_json
from potstill.signals import collect, teach
from potstill.signals.store import SignalStore
from potstill.storage import Storage
from potstill.vocab import build_vocabulary
from tiny_foreign import some_answers

FINGERPRINT = "0123456789abcdef"


@pytest.fixture
def new_machine(url: str, tmp_path: Path, tiny_checkpoint: Path) -> Callable[..., Run]:
    """A function that gives a run folder in which nothing was read yet."""

    def build(name: str, answers: list[Answer] | None = None) -> Run:
        settings = {
            "teacher": {"model": str(tiny_checkpoint)},
            "vocab": {"size": 512, "expectation_tokens": 200, "coverage_tokens": 200},
            "signals": {"group": 32, "context": 256, "shard_answers": 4},
            "storage": {"url": url},
        }
        run = Run(tmp_path / name, validate_recipe({"name": "t", **settings}, "test"), tmp_path / "home", Listening())
        for stage in ("answers", "vocab"):
            (run.folder / stage).mkdir(parents=True)
        save_answers(run.folder / "answers" / "answers.jsonl", answers or some_answers()[:10])
        build_vocabulary(run, run.folder / "vocab")
        return run

    return build


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the answers that a teacher has read, in order."""
    real, seen = collect.read_signals, []

    def listening(source: collect.Source, examples: list) -> Iterator:
        for index, arrays in real(source, examples):
            seen.append(examples[index].id)
            yield index, arrays

    monkeypatch.setattr(collect, "read_signals", listening)
    return seen


def signals(run: Run) -> dict[str, bytes]:
    with run.building("signals", FINGERPRINT) as folder:
        teach(run, folder)
    return {path.name: path.read_bytes() for path in run.stage("signals").glob("train-*.safetensors")}


def test_what_one_machine_read_the_next_fetches(new_machine: Callable[..., Run], read: list[str]) -> None:
    first = signals(new_machine("first"))
    assert len(first) == 3 and len(read) == 10
    again = new_machine("again")
    assert signals(again) == first
    assert len(read) == 10
    assert len(SignalStore(again.stage("signals"), "train")) == 10


def test_a_dead_machine_s_shards_are_not_read_again(
    new_machine: Callable[..., Run], read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "fastest_dtype", lambda: "bfloat16")
    whole = signals(new_machine("whole", some_answers()[1:11]))  # shares no shard with the rest
    real = collect.write_shard
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def dying(path: Path, *parts: object) -> None:
            if path.stem.endswith("2"):
                raise KeyboardInterrupt
            real(path, *parts)  # type: ignore[arg-type]

        patch.setattr(collect, "write_shard", dying)
        signals(new_machine("first"))
    read.clear()
    monkeypatch.setattr(machine, "fastest_dtype", lambda: "float32")  # of the next machine, which would not fit
    second = new_machine("second")
    assert len(signals(second)) == len(whole) == 3
    assert len(read) == 2
    assert read_json(second.stage("signals") / "dtype.json") == "bfloat16"


def test_other_answers_of_the_same_settings_are_read(new_machine: Callable[..., Run], read: list[str]) -> None:
    signals(new_machine("first"))
    answers = some_answers()[:10]
    answers[5] = dataclasses.replace(answers[5], text=answers[5].text[:-1])
    read.clear()
    signals(new_machine("second", answers))
    assert set(read) == {one.prompt.id for one in answers[4:8]}  # its shard alone


def test_a_damaged_shard_is_read_again_and_kept(new_machine: Callable[..., Run], read: list[str]) -> None:
    run = new_machine("first")
    first = signals(run)
    kept = Storage(run.recipe.storage.url, f"signals-{FINGERPRINT}", Listening())
    shard = next(name for name in kept.names() if name.startswith("train-00001"))
    note = kept._note(shard)
    assert note is not None
    kept._system.pipe_file(kept._data_path(note["train-00001.safetensors"]), b"other bytes")
    read.clear()
    second = new_machine("second")
    again = signals(second)
    assert again.keys() == first.keys()
    for name, file in again.items():  # not bytes: the header's lines come in any order
        torch.testing.assert_close(load(file), load(first[name]), rtol=0, atol=0)
    assert len(read) == 4
    assert isinstance(second.progress, Listening) and any("damaged" in line for line in second.progress.lines)
    read.clear()
    assert signals(new_machine("third")) == again and read == []


def test_shards_from_before_there_was_storage_are_kept(new_machine: Callable[..., Run], read: list[str]) -> None:
    alone = new_machine("alone")
    settings, there = alone.recipe, alone.recipe.storage
    alone.recipe = settings.model_copy(update={"storage": there.model_copy(update={"url": ""})})
    with pytest.raises(KeyboardInterrupt), alone.building("signals", FINGERPRINT) as folder:
        teach(alone, folder)
        raise KeyboardInterrupt
    alone.recipe = settings
    signals(alone)
    signals(new_machine("other"))
    assert len(read) == 10
