"""The forecast as people read it: rows that follow the recipe, lines before a run, a refusal before any work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from potstill import check
from potstill.check.cost import run_megabytes, take_stock
from potstill.machine import Machine
from potstill.problem import Problem
from potstill.prompts import golden
from potstill.recipe import Recipe, validate_recipe

MACHINE = Machine(2, 16_000.0, 50_000.0, 100.0, 200.0, 20.0)
SLOW = Machine(2, 16_000.0, 50_000.0, 95.0, 15.0, 20.0)
NOWHERE = Path("/nowhere")


def recipe_with(**sections: object) -> Recipe:
    return validate_recipe({"name": "x", **sections}, "test")


def rows(recipe: Recipe, machine: Machine = MACHINE) -> dict[str, tuple[str, str]]:
    return {what: (amount, note) for what, amount, note in check.predict(recipe, machine, NOWHERE)}


def minutes(recipe: Recipe, machine: Machine = MACHINE) -> dict[str, float]:
    parts = (part.rsplit(" ", 1) for part in rows(recipe, machine)["minutes"][1].split(", "))
    return {name: float(value) for name, value in parts}


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "disk_free_mb", lambda _: 1e9)
    monkeypatch.setattr(check, "available_memory_mb", lambda: 1e9)


def test_every_row_is_there() -> None:
    found = rows(recipe_with())
    assert {
        "prompts",
        "tokens read",
        "passes in training",
        "teacher",
        "student",
        "disk, run folder",
        "memory",
        "minutes",
        "this machine",
    } == set(found)
    assert found["prompts"][0] == f"{len(golden())}"
    assert "50 GB free" in found["disk, run folder"][1] and "16.0 GB available" in found["memory"][1]
    assert "2 cores" in found["this machine"][0]


def test_text_that_training_will_not_get_to_is_told_of(tmp_path: Path) -> None:
    recipe = recipe_with(prompts={"synthetic": {"count": 3000}}, distill={"budget_minutes": 30})
    passes, told = rows(recipe, SLOW)["passes in training"]
    match = re.fullmatch(r"prompts\.limit = (\d+) would do and save (\d+) minutes", told)
    assert match and float(passes) < 0.5
    less = recipe_with(prompts={"synthetic": {"count": 3000}, "limit": int(match[1])}, distill={"budget_minutes": 30})
    saved = minutes(recipe, SLOW)["signals"] - minutes(less, SLOW)["signals"]
    assert saved == pytest.approx(float(match[2]), abs=0.6)
    again, told = rows(less, SLOW)["passes in training"]
    assert float(again) == pytest.approx(1 / check.SPARE, abs=0.02) and told == "over its text"
    empty = tmp_path / "empty.txt"
    empty.touch()
    assert rows(recipe_with(prompts={"golden": False, "files": [{"path": str(empty)}]}), SLOW)["prompts"][0] == "0"
    # What heals is kept, however little is trained on; and the golden prompts are no more than that.
    assert rows(recipe_with(distill={"budget_minutes": 1}), SLOW)["passes in training"][1] == "over its text"
    assert rows(recipe_with(distill={"budget_minutes": None, "epochs": 3}), SLOW)["passes in training"][0] == "3"


def test_a_guess_says_that_it_is_one(tmp_path: Path) -> None:
    for what in ("teacher", "student"):
        assert "a guess" not in rows(recipe_with())[what][1]
        assert "a guess" in rows(recipe_with(teacher={"model": "owner/model"}))[what][1]


def test_a_run_is_told_what_is_missing_alone() -> None:
    recipe = recipe_with(prompts={"synthetic": {"count": 3000}}, distill={"budget_minutes": 30})
    everything = list(check.announce(recipe, SLOW, NOWHERE, dict.fromkeys(["prompts", *minutes(recipe)], "missing")))
    assert len(everything) == 2 and "prompts.limit = " in everything[1]
    assert f"about {sum(minutes(recipe, SLOW).values()):.0f} minutes" in everything[0] and "signals" in everything[0]
    # What is read already is not advised against, and the last stages alone are not worth a line.
    for state, about in (("missing", "about"), ("partial", "at most")):
        (line,) = check.announce(recipe, SLOW, NOWHERE, {"distill": state})
        assert line == f"{about} 30 minutes on this machine: distill 30.0"
    assert list(check.announce(recipe, SLOW, NOWHERE, {"report": "missing"})) == []


def test_a_fast_machine_is_advised_nothing() -> None:
    recipe = recipe_with(prompts={"synthetic": {"count": 3000}}, distill={"budget_minutes": 30})
    fast = Machine(16, 16_000.0, 50_000.0, 400.0, 800.0, 20.0)
    assert (
        len(list(check.announce(recipe, fast, NOWHERE, dict.fromkeys(["prompts", "signals", "distill"], "stale")))) == 1
    )


def test_a_roomy_machine_is_not_refused(tmp_path: Path) -> None:
    check.refuse(recipe_with(), tmp_path / "runs" / "x", tmp_path / "home")
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "disk_free_mb", lambda _: 100.0)
    with pytest.raises(Problem, match=r"0\.1 GB free, .* GB needed\. Free some, or give another --run"):
        check.refuse(recipe_with(), tmp_path / "runs" / "x", tmp_path / "home")


def test_what_a_run_has_written_already_needs_no_more_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, small = tmp_path / "runs" / "x", recipe_with(prune={"layers": 1, "ffn": 32})
    needed = run_megabytes(take_stock(small, NOWHERE))
    monkeypatch.setattr(check, "disk_free_mb", lambda place: needed - 1 if place == tmp_path else 1e9)
    (tmp_path / "home").mkdir()
    with pytest.raises(Problem, match="GB needed"):
        check.refuse(small, folder, tmp_path / "home")
    (folder / "signals.partial").mkdir(parents=True)
    (folder / "signals.partial" / "shard").write_bytes(bytes(2_000_000))
    monkeypatch.setattr(check, "disk_free_mb", lambda place: needed - 1 if place == folder else 1e9)
    check.refuse(small, folder, tmp_path / "home")
    (folder / "signals.partial").rename(folder / "signals")
    check.refuse(small, folder, tmp_path / "home", done=["signals"])
    with pytest.raises(Problem, match="GB needed"):
        check.refuse(small, folder, tmp_path / "home")  # stale: the new one is written beside it


def test_a_full_home_is_refused_unless_the_teacher_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(check, "disk_free_mb", lambda place: 100.0 if place == home else 1e9)
    with pytest.raises(Problem, match="set POTSTILL_HOME to another disk"):
        check.refuse(recipe_with(), tmp_path / "x", home)
    (home / "teachers" / recipe_with().teacher.model / "checkpoint").mkdir(parents=True)
    check.refuse(recipe_with(), tmp_path / "x", home)


def test_what_a_finished_stage_was_made_from_may_be_gone(tmp_path: Path) -> None:
    recipe = recipe_with(prompts={"files": [{"path": "/none/own.jsonl"}]}, vocab={"texts": ["/none/texts.txt"]})
    with pytest.raises(Problem, match=r"own\.jsonl: named in the recipe, but not there"):
        check.refuse(recipe, tmp_path / "x", tmp_path / "home")
    with pytest.raises(Problem, match=r"texts\.txt: named in the recipe, but not there"):
        check.refuse(recipe, tmp_path / "x", tmp_path / "home", ["prompts"])
    check.refuse(recipe, tmp_path / "x", tmp_path / "home", ["prompts", "answers", "vocab"])


def test_too_little_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "available_memory_mb", lambda: 900.0)
    monkeypatch.setattr(check, "fastest_dtype", lambda: "float32")
    with pytest.raises(Problem, match=r"0\.9 GB of memory available, .* `distill`. Lower distill\.batch_tokens"):
        check.refuse(recipe_with(), tmp_path / "x", tmp_path / "home")
    done = ["prompts", "answers", "vocab", "signals", "prune", "distill"]
    check.refuse(recipe_with(), tmp_path / "x", tmp_path / "home", done)  # what is left needs little


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"teacher": {"model": "qwen2.5-coder-0.5b-instrukt"}}, "nearest: 'qwen2.5-coder-0.5b-instruct'"),
        ({"teacher": {"model": "/none/model.gguf"}}, "is not there"),
        ({"prune": {"base": "/none/base"}}, "is not there"),
        ({"evaluate": {"against": ["smollm"]}}, "neither a GGUF file nor a known model"),
    ],
)
def test_a_model_that_cannot_be_is_refused(tmp_path: Path, sections: dict[str, object], said: str) -> None:
    with pytest.raises(Problem, match=said):
        check.refuse(recipe_with(**sections), tmp_path / "x", tmp_path / "home")


@pytest.mark.parametrize(
    "sections",
    [
        {"evaluate": {"files": [{"path": "/none/a.jsonl", "format": "mbpp"}]}},
        {"export": {"guard_tokens": "/none/a.jsonl"}},
        {"prompts": {"files": [{"path": "/none/a.jsonl"}]}},
        {"vocab": {"texts": ["/none/a.jsonl"]}},
        {"prune": {"texts": ["/none/a.jsonl"]}},
    ],
)
def test_a_missing_file_is_refused(tmp_path: Path, sections: dict[str, object]) -> None:
    with pytest.raises(Problem, match=r"/none/a\.jsonl: named in the recipe, but not there"):
        check.refuse(recipe_with(**sections), tmp_path / "x", tmp_path / "home")


@pytest.mark.parametrize(
    ("gate", "said"), [("fidelity.top_1", r"The nearest is 'fidelity\.top1'"), ("x", "They are speed")]
)
def test_a_gate_on_what_nobody_measures_is_refused(tmp_path: Path, gate: str, said: str) -> None:
    with pytest.raises(Problem, match=f"asks for '{gate}', which no scorecard has. {said}"):
        check.refuse(recipe_with(gates={gate: "<= 1"}), tmp_path / "x", tmp_path / "home")


def test_a_gate_on_a_part_of_a_metric_is_none_to_refuse(tmp_path: Path) -> None:
    check.refuse(recipe_with(gates={"fidelity.kl.office": "<= 1"}), tmp_path / "x", tmp_path / "home")
