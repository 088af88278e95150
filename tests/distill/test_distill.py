"""The recipe's training values as Trainer gets them, and what goes along with a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from potstill import machine
from potstill.distill import companions, training_arguments
from potstill.distill.schedule import learning_rate_factor
from potstill.problem import Problem
from potstill.recipe import Recipe, validate_recipe
from potstill.run import Run, read_json

PUBLISHED = {
    "batch_answers": 4,
    "accumulation": 8,
    "epochs": 3.0,
    "learning_rate": 2e-4,
    "still": 0.0,
    "warmup": 0.1,
    "precision": "bfloat16",
    "loader_workers": 2,
}


def recipe_of(**distill: object) -> Recipe:
    return validate_recipe({"name": "t", "export": {"ship": "Q8_0"}, "distill": distill}, "test")


def test_the_published_values_reach_the_trainer(tmp_path: Path) -> None:
    recipe = recipe_of(**PUBLISHED)
    arguments = training_arguments(recipe, tmp_path, 1.0)
    assert recipe.distill.batch_answers == 4 and arguments.gradient_accumulation_steps == 8
    assert arguments.num_train_epochs == 3 and arguments.learning_rate == 2e-4
    assert arguments.bf16 and not arguments.fp16 and arguments.optim == "adamw_torch_fused"
    assert arguments.dataloader_num_workers == 2
    rates = [
        learning_rate_factor(done / 100, recipe.distill.still, recipe.distill.warmup, recipe.distill.decay)
        for done in range(101)
    ]
    assert rates.index(max(rates)) == 10 and max(rates) == pytest.approx(1.0) and rates[-1] == 0.0
    assert not (tmp_path / "dtype.json").exists()  # nothing was measured


def test_the_less_was_cut_the_slower_unless_a_rate_is_asked_for(tmp_path: Path) -> None:
    def rate(cut: float, **distill: object) -> float:
        return float(training_arguments(recipe_of(precision="float32", **distill), tmp_path, cut).learning_rate)

    assert rate(1.0) == rate(0.66) == 5e-5 and rate(0.325) == pytest.approx(2.5e-5) and rate(0.0) == pytest.approx(5e-6)
    assert rate(0.1, learning_rate=2e-4) == 2e-4


@pytest.mark.parametrize(("precision", "bf16"), [("bfloat16", True), ("float32", False)])
def test_precision_is_the_recipe_s(tmp_path: Path, precision: str, bf16: bool) -> None:
    arguments = training_arguments(recipe_of(precision=precision), tmp_path, 1.0)
    assert (arguments.bf16, arguments.fp16) == (bf16, False)


def test_the_fastest_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "fastest_dtype", lambda: "bfloat16")
    assert training_arguments(recipe_of(), tmp_path, 1.0).bf16
    assert read_json(tmp_path / "dtype.json") == "bfloat16"
    monkeypatch.setattr(machine, "fastest_dtype", lambda: "float32")
    assert training_arguments(recipe_of(), tmp_path, 1.0).bf16


def test_float16_on_a_processor_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Problem, match=r"float16.*GPU.*float32 sums.*6e-8.*bfloat16"):
        training_arguments(recipe_of(precision="float16"), tmp_path, 1.0)


def test_nothing_goes_along_unasked(tmp_path: Path) -> None:
    nothing: Any = None
    run = Run(tmp_path, recipe_of())
    assert companions(run, tmp_path, nothing, nothing, torch.float32, print) == []


def test_what_goes_along_stands_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from potstill.distill import consistency, finish, on_policy

    nothing: Any = None
    for module, name in ((finish, "Finish"), (on_policy, "open_on_policy"), (consistency, "open_consistency")):
        monkeypatch.setattr(module, name, lambda *_, name=name: name)
    asked = recipe_of(finish={"share": 0.1, "type": "Q8_0"}, on_policy={"share": 0.5}, consistency={"weight": 1.0})
    found = companions(Run(tmp_path, asked), tmp_path, nothing, nothing, torch.float32, print)
    assert found == ["Finish", "open_on_policy", "open_consistency"]
