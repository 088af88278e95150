"""The forecast: rows that follow the recipe, and a refusal before any work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from potstill import check
from potstill.answers.shipped import MADE_UP_ANSWERS, shipped_count
from potstill.machine import Machine
from potstill.problem import Problem
from potstill.prompts import golden
from potstill.recipe import Recipe, validate_recipe
from tiny import save_phi3

MACHINE = Machine(2, 16_000.0, 50_000.0, 100.0, 200.0, 20.0)


def recipe_with(**sections: object) -> Recipe:
    return validate_recipe({"name": "x", **sections}, "test")


def rows(recipe: Recipe, machine: Machine = MACHINE) -> dict[str, tuple[str, str]]:
    return {what: (amount, note) for what, amount, note in check.predict(recipe, machine)}


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
        "student",
        "disk, run folder",
        "memory",
        "minutes",
        "this machine",
    } == set(found)
    assert found["prompts"][0] == f"{len(golden())}"
    assert "50 GB free" in found["disk, run folder"][1] and "16.0 GB available" in found["memory"][1]
    assert "2 cores" in found["this machine"][0]


def test_the_budget_is_what_training_takes() -> None:
    assert minutes(recipe_with(distill={"budget_minutes": 7}))["distill"] == 7.0


def test_a_machine_half_as_fast_takes_twice_as_long() -> None:
    slow = Machine(2, 16_000.0, 50_000.0, 50.0, 100.0, 20.0)
    for stage in ("vocab", "signals", "prune", "distill"):
        assert minutes(recipe_with(), slow)[stage] == pytest.approx(2 * minutes(recipe_with())[stage], abs=0.11)


def test_more_parameters_epochs_and_calibration_cost_more() -> None:
    base = minutes(recipe_with())
    assert minutes(recipe_with(distill={"epochs": 3}))["distill"] > 2.5 * base["distill"]
    few, more = ({"calibration_tokens": tokens} for tokens in (10_000, 20_000))
    assert minutes(recipe_with(prune=more))["prune"] == pytest.approx(
        2 * minutes(recipe_with(prune=few))["prune"], 0.05
    )
    small, large = recipe_with(prune={"parameters": 80_000_000}), recipe_with(prune={"parameters": 300_000_000})
    assert check.run_megabytes(small) < check.run_megabytes(recipe_with()) < check.run_megabytes(large)
    assert check.memory_megabytes(small) < check.memory_megabytes(large)


def test_text_that_is_not_there_is_not_healed_on(tmp_path: Path) -> None:
    all_of_it, more = ({"calibration_tokens": tokens} for tokens in (60_000, 120_000))
    assert minutes(recipe_with(prune=all_of_it))["prune"] == minutes(recipe_with(prune=more))["prune"]
    texts = tmp_path / "texts.txt"
    texts.write_text("一\n" * 9, encoding="utf-8")
    own = {**more, "texts": [str(texts)]}
    assert minutes(recipe_with(prune=own))["prune"] > 2 * minutes(recipe_with(prune=more))["prune"]


def test_a_processor_without_fast_bfloat16_reaches_more_of_its_rate() -> None:
    float32, bfloat16 = (
        Machine(2, 16_000.0, 50_000.0, 200.0, 15.0, 20.0),
        Machine(2, 16_000.0, 50_000.0, 90.0, 200.0, 20.0),
    )
    assert minutes(recipe_with(), float32)["signals"] < minutes(recipe_with(), bfloat16)["signals"]


def test_text_that_training_will_not_get_to_is_told_of(tmp_path: Path) -> None:
    recipe = recipe_with(prompts={"synthetic": {"count": 3000}}, distill={"budget_minutes": 30})
    slow = Machine(2, 16_000.0, 50_000.0, 95.0, 15.0, 20.0)
    passes, told = rows(recipe, slow)["passes in training"]
    match = re.fullmatch(r"prompts\.limit = (\d+) would do and save (\d+) minutes", told)
    assert match and float(passes) < 0.5
    less = recipe_with(prompts={"synthetic": {"count": 3000}, "limit": int(match[1])}, distill={"budget_minutes": 30})
    saved = minutes(recipe, slow)["signals"] - minutes(less, slow)["signals"]
    assert saved == pytest.approx(float(match[2]), abs=0.6)
    again, told = rows(less, slow)["passes in training"]
    assert float(again) == pytest.approx(1 / check.SPARE, abs=0.02) and told == "over its text"
    empty = tmp_path / "empty.txt"
    empty.touch()
    assert rows(recipe_with(prompts={"golden": False, "files": [{"path": str(empty)}]}), slow)["prompts"][0] == "0"
    # What heals is kept, however little is trained on; and the golden prompts are no more than that.
    assert rows(recipe_with(distill={"budget_minutes": 1}), slow)["passes in training"][1] == "over its text"
    assert rows(recipe_with(distill={"budget_minutes": None, "epochs": 3}), slow)["passes in training"][0] == "3"


def test_only_answers_that_must_be_written_cost_time(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("一\n二\n\n三\n", encoding="utf-8")
    assert minutes(recipe_with())["answers"] == 0.0
    assert minutes(recipe_with(answers={"fresh": True}))["answers"] > 5
    files = {"files": [{"path": str(own)}]}
    assert check.count_prompts(recipe_with(prompts=files)) == len(golden()) + 3
    assert check.count_prompts(recipe_with(prompts={**files, "golden": False})) == 3
    assert 0 < minutes(recipe_with(prompts={**files, "golden": False}))["answers"] < 5


def test_answers_to_made_up_prompts_ship_as_far_as_they_go() -> None:
    ships = shipped_count(MADE_UP_ANSWERS)

    def asked(**settings: object) -> int:
        return check.prompts_to_answer(recipe_with(prompts={"synthetic": settings}))

    assert (asked(count=ships), asked(count=ships + 70)) == (0, 70)
    assert asked(count=ships, top_p=0.5) == ships
    assert check.prompts_to_answer(recipe_with(seed=1, prompts={"synthetic": {"count": ships}})) == ships


def test_products_faster_than_memory_bring_nothing_more() -> None:
    fast, faster = (Machine(2, 16_000.0, 50_000.0, 100.0, rate, 20.0) for rate in (800.0, 2000.0))
    assert minutes(recipe_with(), fast) == minutes(recipe_with(), faster)


def test_the_limit_counts_training_prompts_of_all_sources() -> None:
    held_out = sum(prompt.split == "held-out" for prompt in golden())
    assert check.count_training(recipe_with(prompts={"limit": 10})) == 10
    assert check.count_prompts(recipe_with(prompts={"limit": 10})) == held_out + 10


def test_a_roomy_machine_is_not_refused(tmp_path: Path) -> None:
    check.refuse(recipe_with(), tmp_path / "runs" / "x", tmp_path / "home")
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "disk_free_mb", lambda _: 100.0)
    with pytest.raises(Problem, match=r"0\.1 GB free, .* GB needed\. Free some, or give another --run"):
        check.refuse(recipe_with(), tmp_path / "runs" / "x", tmp_path / "home")


def test_a_full_home_is_refused_unless_the_teacher_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(check, "disk_free_mb", lambda place: 100.0 if place == home else 1e9)
    with pytest.raises(Problem, match="set POTSTILL_HOME to another disk"):
        check.refuse(recipe_with(), tmp_path / "x", home)
    (home / "teachers" / recipe_with().teacher.model / "checkpoint").mkdir(parents=True)
    check.refuse(recipe_with(), tmp_path / "x", home)


def test_too_little_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "available_memory_mb", lambda: 900.0)
    with pytest.raises(Problem, match=r"0\.9 GB of memory available, .* Lower prune\.calibration_tokens"):
        check.refuse(recipe_with(), tmp_path / "x", tmp_path / "home")


@pytest.mark.parametrize(
    "sections",
    [
        {"prompts": {"files": [{"path": "/none/a.jsonl"}]}},
        {"vocab": {"texts": ["/none/a.jsonl"]}},
        {"prune": {"texts": ["/none/a.jsonl"]}},
    ],
)
def test_a_missing_file_is_refused(tmp_path: Path, sections: dict[str, object]) -> None:
    with pytest.raises(Problem, match=r"/none/a\.jsonl: named in the recipe, but not there"):
        check.refuse(recipe_with(**sections), tmp_path / "x", tmp_path / "home")


def test_the_signals_format_counts() -> None:
    exact = recipe_with(signals={"precision": "float16"})
    assert check.run_megabytes(exact) > check.run_megabytes(recipe_with())


def test_a_shape_given_in_full_counts_instead_of_the_target() -> None:
    small = recipe_with(prune={"layers": 2, "ffn": 64, "parameters": 900_000_000})
    assert check.run_megabytes(small) < check.run_megabytes(recipe_with())


def test_a_shape_the_default_teacher_cannot_give_is_refused(tmp_path: Path) -> None:
    for prune, said in (
        ({"layers": 30}, "there are 24"),
        ({"layers": 2, "parameters": 400_000_000}, "out of reach"),
        ({"ffn": 6400}, "there are 4864"),
    ):
        with pytest.raises(Problem, match=said):
            check.refuse(recipe_with(prune=prune), tmp_path / "x", tmp_path / "home")
        other = recipe_with(prune=prune, teacher={"model": "owner/larger"})
        check.refuse(other, tmp_path / "x", tmp_path / "home")


def test_the_default_student_has_the_parameters_it_is_asked_for() -> None:
    assert check.student_parameters(recipe_with()) == pytest.approx(150e6, rel=0.02)


def test_the_students_shape_is_told_before_it_is_cut(tmp_path: Path) -> None:
    assert rows(recipe_with(prune={"hidden": 768, "layers": 12, "parameters": 80_000_000}))["student"] == (
        "79.8M parameters",
        "12 × 1376, hidden 768, 12 heads of 64 over 2, vocabulary 32768",
    )
    base = save_phi3(tmp_path / "phi3", weights=False)
    shape = {"layers": 3, "hidden": 128, "ffn": 64}
    amount, shown = rows(recipe_with(prune={"base": str(base), **shape}))["student"]
    assert (amount, shown) == ("0.4M parameters", "3 × 64, hidden 128, 4 heads of 32, vocabulary 608")
    assert "a guess" in rows(recipe_with(prune={"base": "microsoft/Phi-3-mini-4k-instruct"}))["student"][1]
    with pytest.raises(Problem, match=r"prune\.hidden = 320"):
        check.predict(recipe_with(prune={"base": str(base), **shape, "hidden": 320}), MACHINE)
