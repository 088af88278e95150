"""Training: the teacher stays put, accumulation is a big batch, a kill changes nothing."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from test_store import build_store
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from potstill.distill import Log, newest_checkpoint, training_arguments
from potstill.distill import trainer as training
from potstill.distill.batches import LengthBatches, collate
from potstill.distill.companion import Companion
from potstill.distill.schedule import Clock, StepCount
from potstill.distill.trainer import DistillTrainer, Pace
from potstill.problem import Problem
from potstill.progress import Silent
from potstill.recipe import Recipe, validate_recipe
from potstill.signals.store import SignalStore
from tiny import build_model


def recipe_with(**distill: object) -> Recipe:
    settings = {"epochs": 2.0, "learning_rate": 1e-3, "still": 0.0, "batch_tokens": 40, "chunk_rows": 4}
    return validate_recipe({"name": "t", "distill": settings | distill}, "test")


def train(
    student: PreTrainedModel,
    store: SignalStore,
    folder: Path,
    recipe: Recipe,
    resume: Path | None = None,
    stop: int = 0,
    companions: Sequence[Companion] = (),
    curvature: Mapping[str, torch.Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    clock: Clock | None = None,
) -> list[dict[str, float]]:
    """Train; `stop` ends it after so many steps, as a kill would, with a checkpoint of the last one."""
    folder.mkdir(exist_ok=True)
    log = Log(folder / "log.jsonl")
    log.keep_steps(int(resume.name.split("-")[1]) if resume else 0)

    class Killed(Exception):
        pass

    def report(step: int, progress: float, seconds: float) -> None:
        log.write(step, progress, seconds)
        if stop and step > stop:
            raise Killed

    arguments = training_arguments(recipe, folder, 1.0)
    arguments.bf16 = dtype == torch.bfloat16
    with Silent().task("", 1, "") as task:
        log.task = task
        pace = Pace(clock or StepCount(total=1), recipe.distill.checkpoint_seconds, report)
        trainer = DistillTrainer(student, store, recipe.distill, arguments, pace, recipe.seed, companions, curvature)
        log.meter = trainer.meter
        with contextlib.suppress(Killed):
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def changed(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    other = copy.deepcopy(model)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
    return other


def largest_difference(one: PreTrainedModel, other: PreTrainedModel) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def test_a_student_that_is_the_teacher_has_nothing_to_learn(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden", "float16", layers=(2,))
    recipe = recipe_with(hidden_pairs=[{"student": 2, "teacher": 2}])
    lines = train(copy.deepcopy(tiny_model), store, tmp_path / "run", recipe_with(learning_rate=1e-9))
    assert all(line["forward_kl"] < 2e-4 for line in lines)
    lines = train(
        copy.deepcopy(tiny_model),
        store,
        tmp_path / "paired",
        recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"learning_rate": 1e-9})}),
    )
    assert all(line["hidden_2_2"] < 1e-5 for line in lines)


@pytest.mark.parametrize("kind", ["hidden", "topk"])
def test_training_brings_the_student_nearer(tiny_model: PreTrainedModel, tmp_path: Path, kind: str) -> None:
    store = build_store(tiny_model, tmp_path / "s", kind)
    lines = train(changed(tiny_model, 1), store, tmp_path / "run", recipe_with(epochs=8.0))
    assert lines[-1]["forward_kl"] < 0.5 * lines[0]["forward_kl"]


def test_a_single_step_moves_the_student(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store, student = build_store(tiny_model, tmp_path / "s", "hidden"), changed(tiny_model, 1)
    lines = train(student, store, tmp_path / "run", recipe_with(epochs=1.0, batch_tokens=10_000))
    assert len(lines) == 1 and largest_difference(student, changed(tiny_model, 1)) > 0


def test_the_rate_of_a_step_is_that_of_its_middle(
    tiny_model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer asks for the rate of the next step before it says that this one has ended."""
    store, time = build_store(tiny_model, tmp_path / "s", "hidden"), [0.0]
    asked: list[float] = []

    class SixSeconds(Companion):
        def before_update(self) -> None:
            time[0] += 6.0

    def factor(progress: float, *_: object) -> float:
        asked.append(progress)
        return 1.0

    monkeypatch.setattr(training, "learning_rate_factor", factor)
    clock = Clock(60.0, now=lambda: time[0])
    lines = train(
        changed(tiny_model, 1), store, tmp_path / "run", recipe_with(budget_minutes=1.0), companions=[SixSeconds()],
        clock=clock,
    )  # fmt: skip
    assert len(lines) == 10
    once = list(dict.fromkeys(round(one, 6) for one in asked))  # every group of weights asks
    assert once == pytest.approx([0.0] + [(step + 0.5) / 10 for step in range(1, 10)])


def test_a_loss_that_is_no_number_ends_the_training(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store, student = build_store(tiny_model, tmp_path / "s", "hidden"), changed(tiny_model, 1)
    with torch.no_grad():
        next(student.parameters())[0, 0] = torch.inf
    with pytest.raises(Problem, match="step 1: the loss is no number any more"):
        train(student, store, tmp_path / "run", recipe_with(checkpoint_seconds=1e-6))
    assert newest_checkpoint(tmp_path / "run") is None


def test_weights_that_are_no_numbers_push_out_no_checkpoint(
    tiny_model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradients may be what breaks, with a loss that is still a number."""
    store, student = build_store(tiny_model, tmp_path / "s", "hidden"), changed(tiny_model, 1)

    class Breaking(Companion):
        def begin_step(self, step: int, progress: float) -> None:
            self.step = step

        def before_update(self) -> None:
            if self.step == 2:
                next(student.parameters()).grad.fill_(torch.nan)

    with pytest.raises(Problem, match="step 3: the weights are no numbers any more"):
        train(student, store, tmp_path / "run", recipe_with(checkpoint_seconds=1e-6), companions=[Breaking()])
    good = newest_checkpoint(tmp_path / "run")
    assert good is not None and good.name == "checkpoint-2"


def test_eight_small_batches_are_one_big_batch(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden")
    small, big = changed(tiny_model, 2), changed(tiny_model, 2)
    pieces = len(LengthBatches([len(e.ids) for e in store.examples], 1, 0))
    train(small, store, tmp_path / "small", recipe_with(epochs=3.0, batch_tokens=32, accumulation=pieces))
    train(big, store, tmp_path / "big", recipe_with(epochs=3.0, batch_tokens=10_000, accumulation=1))
    assert largest_difference(small, changed(tiny_model, 2)) > 1e-3
    assert largest_difference(small, big) < 0.02 * largest_difference(small, changed(tiny_model, 2))


@pytest.mark.parametrize("settings", [{}, {"tail": {"probability": 0.5, "share": 0.5}}], ids=["plain", "tail"])
def test_killed_and_resumed_is_never_killed(tiny_model: PreTrainedModel, tmp_path: Path, settings: dict) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden")
    recipe = recipe_with(checkpoint_seconds=1e-6, **settings)
    whole = changed(tiny_model, 3)
    expected = train(whole, store, tmp_path / "whole", recipe)
    killed = tmp_path / "killed"
    train(changed(tiny_model, 3), store, killed, recipe, stop=4)
    checkpoint = newest_checkpoint(killed)
    assert checkpoint is not None
    assert not list(checkpoint.glob("*.pt")) + list(checkpoint.glob("*.pth")) + list(checkpoint.glob("*.bin"))
    resumed = changed(tiny_model, 99)  # whatever it held: the checkpoint has what moves
    lines = train(resumed, store, killed, recipe, resume=checkpoint)
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in expected], rel=1e-5)
    assert largest_difference(resumed, whole) < 1e-6


@pytest.mark.parametrize(("before", "more"), [(1800.0, 5), (3600.0, 1)], ids=["half of it", "all of it"])
def test_time_used_before_a_kill_counts_against_the_budget(
    tiny_model: PreTrainedModel, tmp_path: Path, before: float, more: int
) -> None:
    store, killed = build_store(tiny_model, tmp_path / "s", "hidden"), tmp_path / "killed"
    recipe = recipe_with(budget_minutes=60.0, checkpoint_seconds=1e-6)
    train(changed(tiny_model, 3), store, killed, recipe, stop=3, clock=Clock(3600.0))
    checkpoint = newest_checkpoint(killed)
    assert checkpoint is not None
    kept = json.loads((checkpoint / "trainer_state.json").read_text())
    used = kept["stateful_callbacks"]["Pace"]["attributes"]
    assert 0 < used["used_before"] < 3600
    used["used_before"] = before
    (checkpoint / "trainer_state.json").write_text(json.dumps(kept))
    done, again = int(checkpoint.name.split("-")[1]), Clock(3600.0)
    lines = train(changed(tiny_model, 3), store, killed, recipe, resume=checkpoint, stop=done + more - 1, clock=again)[
        done:
    ]
    assert len(lines) == more  # where the budget is used up, one step shows that it is
    assert all(line["seconds"] >= before and line["progress"] >= before / 3600 for line in lines)
    assert again.is_over() == (before == 3600.0)


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="this PyTorch has no grad_dtype")
def test_gradients_that_stay_in_bfloat16_lead_the_same_way(
    tiny_model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, recipe = build_store(tiny_model, tmp_path / "s", "hidden"), recipe_with(epochs=1.0, gradient_clip=1e6)
    matrices = {name: weight for name, weight in tiny_model.named_parameters() if "proj" in name and weight.dim() == 2}
    curvature = {name: torch.eye(weight.shape[1]).bfloat16() for name, weight in matrices.items()}
    narrow, wide = changed(tiny_model, 4), changed(tiny_model, 4)
    train(narrow, store, tmp_path / "narrow", recipe, curvature=curvature, dtype=torch.bfloat16)
    monkeypatch.setattr(DistillTrainer, "_takes_gradients_as_they_come", lambda _: False)
    train(wide, store, tmp_path / "wide", recipe, curvature=curvature, dtype=torch.bfloat16)
    asked = [
        {name for name, weight in one.named_parameters() if weight.grad_dtype != weight.dtype} for one in (narrow, wide)
    ]
    assert asked == [set(curvature), set()]
    assert largest_difference(narrow, wide) == 0 < largest_difference(narrow, changed(tiny_model, 4))


def test_a_still_run_moves_nothing(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden")
    student = changed(tiny_model, 4)
    train(student, store, tmp_path / "run", recipe_with(epochs=1.0, still=1.0, warmup=0.0))
    assert largest_difference(student, changed(tiny_model, 4)) == 0.0


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path, tiny_model: PreTrainedModel) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden")
    train(changed(tiny_model, 5), store, tmp_path / "run", recipe_with(checkpoint_seconds=1e-6), stop=3)
    newest = newest_checkpoint(tmp_path / "run")
    assert newest is not None
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    older = newest_checkpoint(tmp_path / "run")
    assert older is not None
    assert int(older.name.split("-")[1]) < int(newest.name.split("-")[1])


def test_rows_point_at_the_positions_that_predict(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden")
    batch = collate(store.examples, [4, 1])
    flat = batch["input_ids"].flatten()
    # The token after a row is its label, wherever the row lies.
    assert torch.equal(flat[batch["rows"] + 1], batch["labels"])
    assert len(batch["labels"]) == sum(store.examples[index].rows for index in (4, 1))


def test_a_narrower_student_is_matched_through_a_learned_map(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden", layers=(4,))
    student = build_model(tiny_tokenizer, hidden_size=32, num_hidden_layers=3)
    recipe = recipe_with(epochs=10.0, hidden_pairs=[{"student": 2, "teacher": 4}], losses={"forward_kl": 0.0})
    lines = train(student, store, tmp_path / "run", recipe)
    assert lines[-1]["hidden_2_4"] < 0.8 * lines[0]["hidden_2_4"]
    assert "forward_kl" not in lines[0]


@pytest.mark.parametrize("natural", [False, True], ids=["adamw", "natural"])
def test_a_learned_map_moves_at_the_recipe_s_rate(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, natural: bool
) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden", layers=(4,))
    student = build_model(tiny_tokenizer, hidden_size=32, num_hidden_layers=3)
    recipe = recipe_with(hidden_pairs=[{"student": 2, "teacher": 4}], learning_rate=3e-4, beta2=0.9)
    matrices = {name: weight for name, weight in student.named_parameters() if "proj" in name and weight.dim() == 2}
    curvature = {name: torch.eye(weight.shape[1]) for name, weight in matrices.items()} if natural else None
    pace = Pace(StepCount(total=1), 1.0, lambda *_: None)
    arguments = training_arguments(recipe, tmp_path, 1.0)
    trainer = DistillTrainer(student, store, recipe.distill, arguments, pace, 0, (), curvature)
    groups = trainer.create_optimizer().param_groups
    assert sum(parameter.shape == (64, 32) for parameter in groups[-1]["params"]) == 1
    assert {(group["lr"], tuple(group["betas"])) for group in groups} == {(3e-4, (0.9, 0.9))}
