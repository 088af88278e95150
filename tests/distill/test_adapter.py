"""The adapter of one category: what it reads, what it leaves alone, how it is kept, how a kill is survived."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import test_store
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from potstill.distill import Log, distill
from potstill.distill.adapter import adapter_training
from potstill.distill.schedule import Clock
from potstill.models.lora import merge_lora, read_lora
from potstill.problem import Problem
from potstill.recipe import validate_recipe
from potstill.run import Run, read_json, write_json
from potstill.signals.store import SignalStore

pytest.importorskip("peft")
Distilling = Callable[..., tuple[Run, Path]]


@pytest.fixture(autouse=True)
def time_by_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 0.3 seconds, however busy the machine is: the adapter has six, a few more after a kill."""
    monkeypatch.setattr(Clock, "used", lambda clock: clock.used_before + 0.3 * clock.steps)


@pytest.fixture
def distilling(
    tiny_model: PreTrainedModel,
    tiny_checkpoint: Path,
    tiny_tokenizer_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Distilling:
    """A function that gives a run up to `prune`, whose answers are of two categories, and the stage's folder."""
    plain = test_store.some_examples

    def mixed(*settings: int, **given: tuple) -> list:
        return [replace(one, category=("office", "code")[i % 2]) for i, one in enumerate(plain(*settings, **given))]

    monkeypatch.setattr(test_store, "some_examples", mixed)

    def build(**adapter: object) -> tuple[Run, Path]:
        run = Run(tmp_path / "run", validate_recipe({"name": "t", "distill": {
            "epochs": 1.0, "precision": "float32", "batch_tokens": 40, "chunk_rows": 4, "checkpoint_seconds": 1e-6,
            "adapter": {"minutes": 0.03, "rank": 4, "alpha": 8.0, "learning_rate": 1e-2} | adapter,
        }}, "test"))  # fmt: skip
        (run.folder / "prune").mkdir(parents=True)
        (run.folder / "prune" / "student").symlink_to(tiny_checkpoint)
        write_json(run.folder / "prune" / "report.json", {"cut": 0.5})
        (run.folder / "vocab").symlink_to(tiny_tokenizer_dir)
        changed = copy.deepcopy(tiny_model)
        with torch.no_grad():
            changed.get_input_embeddings().weight.mul_(1.1)
        test_store.build_store(changed, run.folder / "signals", "hidden")
        run.partial("distill").mkdir()
        return run, run.partial("distill")

    return build


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.randint(0, 600, (2, 20), generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        return model(ids).logits


def student_of(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder / "student", dtype="float32").eval()


def test_it_reads_its_category_alone_and_leaves_the_student_as_it_was(
    distilling: Distilling, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: dict[str, set[str]] = {}
    real = SignalStore.rows_of

    def rows_of(store: SignalStore, indices: list[int]) -> object:
        learner = "adapter" if len(store) < 7 else "student"
        read.setdefault(learner, set()).update(store.examples[index].id for index in indices)
        return real(store, indices)

    monkeypatch.setattr(SignalStore, "rows_of", rows_of)
    without, folder = distilling()
    distill(without, folder)
    alone = load_file(folder / "student" / "model.safetensors")
    assert not (folder / "adapter").exists() and read == {"student": {f"e{i}" for i in range(7)}}

    (folder / "report.json").unlink()
    run, recipe = without, without.recipe.model_copy(deep=True)
    asked = recipe.distill.model_copy(
        update={"adapter": recipe.distill.adapter.model_copy(update={"category": "code"})}
    )
    distill(replace(run, recipe=recipe.model_copy(update={"distill": asked})), folder)
    assert read["adapter"] == {"e1", "e3", "e5"}
    found = load_file(folder / "student" / "model.safetensors")
    assert found.keys() == alone.keys() and all(torch.equal(found[name], alone[name]) for name in alone)
    assert {path.name for path in (folder / "adapter").iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json", "log.jsonl", "report.json",
    }  # fmt: skip
    assert read_json(folder / "adapter" / "report.json")["answers"] == 3


def test_what_is_kept_is_what_peft_loads(distilling: Distilling) -> None:
    from peft import PeftModel

    run, folder = distilling(category="code")
    distill(run, folder)
    lora, base = read_lora(folder / "adapter"), student_of(folder)
    assert (lora.rank, lora.alpha, len(lora.layers)) == (4, 8.0, 4 * 7)
    merged = copy.deepcopy(base)
    merge_lora(merged, lora)
    adapted = PeftModel.from_pretrained(copy.deepcopy(base), folder / "adapter").eval()
    assert (logits(merged) - logits(base)).abs().max() > 0.01
    torch.testing.assert_close(logits(adapted), logits(merged), rtol=0, atol=1e-4)


def test_killed_behind_its_report_nothing_is_trained_again(
    distilling: Distilling, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = distilling(category="code")
    distill(run, folder)
    student = (folder / "student" / "model.safetensors").read_bytes()
    adapter = folder / "adapter.partial"
    (folder / "adapter").rename(adapter)
    for place in (folder, adapter):
        (place / "checkpoint-3").mkdir()
    monkeypatch.setattr("potstill.distill.train", None)
    monkeypatch.setattr("potstill.distill.adapter.train", None)
    distill(run, folder)
    assert not list(folder.glob("checkpoint-*")) and not list((folder / "adapter").glob("checkpoint-*"))
    assert (folder / "student" / "model.safetensors").read_bytes() == student and not adapter.exists()


def test_killed_in_the_adapter_the_student_is_not_trained_again(
    distilling: Distilling, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = distilling(category="code")
    write = Log.write

    def killed(log: Log, step: int, progress: float, seconds: float) -> None:
        if log.path.parent != folder and step == 3:
            raise KeyboardInterrupt
        write(log, step, progress, seconds)

    monkeypatch.setattr(Log, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        distill(run, folder)
    assert not (folder / "adapter").exists()
    student = folder / "student" / "model.safetensors"
    made, kept = (
        student.stat().st_mtime_ns,
        load_file(folder / "adapter.partial" / "checkpoint-2" / "model.safetensors"),
    )
    assert all("lora_" in name for name in kept)
    steps: list[int] = []
    monkeypatch.setattr(Log, "write", lambda log, step, *rest: (steps.append(step), write(log, step, *rest))[1])
    distill(run, folder)
    assert student.stat().st_mtime_ns == made and steps[0] == 3
    assert not list((folder / "adapter").glob("checkpoint-*")) and not (folder / "adapter.partial").exists()


def test_a_category_without_answers_is_named(distilling: Distilling) -> None:
    run, folder = distilling(category="poems")
    with pytest.raises(Problem, match=r'"poems", but no training answer.*code, office'):
        distill(run, folder)


def test_nothing_goes_along_and_the_losses_stay() -> None:
    section = validate_recipe({"name": "t", "export": {"ship": "Q8_0"}, "distill": {
        "losses": {"reverse_kl": 0.5}, "temperature": {"start": 2.0, "end": 2.0},
        "finish": {"share": 0.2, "type": "Q8_0"},
        "on_policy": {"share": 0.5}, "consistency": {"weight": 1.0}, "joint": {"share": 0.3},
        "adapter": {"category": "code", "minutes": 3.0, "rank": 5},
    }}, "test").distill  # fmt: skip
    own = adapter_training(section)
    assert (own.trained, own.lora.rank, own.budget_minutes) == ("lora", 5, 3.0)
    assert not (own.finish.share or own.on_policy.share or own.consistency.weight or own.joint.share)
    assert own.losses == section.losses and own.temperature == section.temperature
