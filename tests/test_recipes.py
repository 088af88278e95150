"""Every recipe that ships loads and can be forecast; an ablation changes its own technique and nothing else."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from potstill import check
from potstill.check.sizes import size_up
from potstill.machine import Machine
from potstill.recipe import Recipe, load_recipe

FOLDER = Path(__file__).parents[1] / "recipes"
SHIPPED = sorted(FOLDER.rglob("*.toml"))
ABLATIONS = sorted((FOLDER / "ablation").glob("*.toml"))
MACHINE = Machine(2, 16_000.0, 50_000.0, 100.0, 200.0, 20.0)

TECHNIQUES = {
    "logits-only": set(),
    "hidden": {"distill.hidden_pairs"},
    "dynamic-temperature": {"distill.temperature.schedule", "distill.temperature.start", "distill.temperature.end"},
    "tail-mask": {"distill.tail.probability"},
    "consistency": {"distill.consistency.weight"},
    "feed-forward": {"distill.trained"},
    "lora": {"distill.trained", "distill.learning_rate"},
    "nf4-lora": {"distill.trained", "distill.learning_rate"},
    "on-policy": {"distill.on_policy.share"},
    "unhealed": {"prune.heal"},
    "top64": {"signals.format"},
    "natural": {"distill.optimiser", "distill.learning_rate", "distill.warmup", "distill.still"},
}
"""Ablation → keys in which it differs from logits-only, besides its name."""


def name_of(path: Path) -> str:
    return str(path.relative_to(FOLDER))


def flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from flat(one, f"{place}.{key}" if place else key)
    else:
        yield place, value


def keys(name: str) -> dict[str, Any]:
    return dict(flat(load_recipe(FOLDER / "ablation" / f"{name}.toml").model_dump(mode="json")))


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_it_can_be_checked(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "disk_free_mb", lambda _: 1e9)
    monkeypatch.setattr(check, "available_memory_mb", lambda: 1e9)
    recipe = load_recipe(path)
    rows = {row[0]: row[1] for row in check.predict(recipe, MACHINE, tmp_path)}
    check.refuse(recipe, tmp_path / "run", tmp_path / "home")
    assert float(rows["minutes"]) > 0
    assert int(rows["prompts"].replace(",", "")) > 0


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_it_begins_with_what_it_is_for(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_names_are_unique() -> None:
    names = [load_recipe(path).name for path in SHIPPED]
    assert len(set(names)) == len(names)


def test_every_technique_has_its_ablation() -> None:
    assert {path.stem for path in ABLATIONS} == set(TECHNIQUES)


@pytest.mark.parametrize("name", TECHNIQUES)
def test_an_ablation_differs_in_its_own_technique_alone(name: str) -> None:
    base, own = keys("logits-only"), keys(name)
    assert {key for key in base | own if base.get(key) != own.get(key)} - {"name"} == TECHNIQUES[name]


def test_all_ablations_have_the_same_budget() -> None:
    assert {load_recipe(path).distill.budget_minutes for path in ABLATIONS} == {10.0}


def test_the_published_values_stand_to_the_letter() -> None:
    recipe = load_recipe(FOLDER / "published-phi3-150m.toml")
    prune, distill = recipe.prune, recipe.distill
    assert (prune.layers, prune.hidden, prune.heal) == (12, 1024, False)
    assert prune.base and "Phi-3" in prune.base
    assert recipe.vocab.binding.unbound == "unk"
    assert [(pair.student, pair.teacher) for pair in distill.hidden_pairs] == [(6, 12)]
    assert distill.losses.weights() == {"forward_kl": 1.0}
    temperatures = distill.temperature.values()
    assert (temperatures[0], temperatures[-1]) == (5.0, 2.0) and 3.0 in temperatures
    assert (distill.tail.share, distill.consistency.clip) == (0.15, 0.85)
    assert (distill.trained, distill.lora.rank) == ("feed-forward", 8)
    assert (distill.batch_answers, distill.accumulation, distill.epochs) == (4, 8, 3)
    assert (distill.learning_rate, distill.warmup) == (2e-4, 0.1)
    assert (distill.precision, distill.loader_workers) == ("bfloat16", 2)
    assert distill.budget_minutes is None  # three epochs, however long they take


def test_the_published_technique_is_the_same_on_both_teachers() -> None:
    phi, qwen = (load_recipe(FOLDER / f"published-{name}.toml").distill for name in ("phi3-150m", "qwen-150m"))
    apart = {"budget_minutes", "epochs", "loader_workers", "lora"}
    assert qwen.model_dump(exclude=apart) == phi.model_dump(exclude=apart)


@pytest.mark.parametrize("name, parameters", [("qwen-150m", 150e6), ("qwen-80m", 80e6), ("joint-80m", 80e6)])
def test_a_student_has_the_size_of_its_name(name: str, parameters: float, tmp_path: Path) -> None:
    student = size_up(load_recipe(FOLDER / f"{name}.toml"), tmp_path).student
    assert student == pytest.approx(parameters, rel=0.01)


def test_joint_training_has_given_answers_to_mix_in() -> None:
    recipe = load_recipe(FOLDER / "joint-80m.toml")
    assert recipe.distill.joint.share
    assert given(recipe)


def given(recipe: Recipe) -> list[str]:
    from potstill.prompts.importing import BadLine, read_questions

    rows = [row for file in recipe.prompts.files for row in read_questions(file)]
    assert not [row for row in rows if isinstance(row, BadLine)]
    return [row.given for row in rows if not isinstance(row, BadLine) and row.given]


def test_smollm_is_asked_in_english_alone() -> None:
    recipe = load_recipe(FOLDER / "smollm2.toml")
    assert not recipe.prompts.golden
    (file,) = recipe.prompts.files
    lines = file.path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) >= 150
    assert all(line.isascii() for line in lines)


@pytest.mark.parametrize("path", ABLATIONS, ids=name_of)
def test_an_ablation_says_no_default_again(path: Path) -> None:
    """A key that stands in the file matters; all others are what `potstill schema` says."""
    said = dict(flat(tomllib.loads(path.read_text(encoding="utf-8"))))
    defaults = dict(flat(Recipe.model_validate({"name": "x"}).model_dump(mode="json")))
    published = {"distill.lora.rank", "distill.tail.share", "distill.consistency.clip", "signals.k"}
    shape = {"prune.parameters"}
    assert not [key for key, value in said.items() if defaults.get(key) == value and key not in published | shape]
