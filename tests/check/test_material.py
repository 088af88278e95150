"""The text of a recipe, counted: all sources, each in its share, and what must be answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from potstill.answers.shipped import MADE_UP_ANSWERS, shipped_count
from potstill.check.material import MADE_UP, PEOPLES, Material, count_material
from potstill.prompts import golden
from potstill.recipe import validate_recipe


def material(**sections: object) -> Material:
    return count_material(validate_recipe({"name": "x", **sections}, "test"))


def test_lines_of_files_count_beside_the_golden_prompts(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("一\n二\n\n三\n", encoding="utf-8")
    files = {"files": [{"path": str(own)}]}
    assert material(prompts=files).prompts == len(golden()) + 3
    assert (material(prompts=files).to_answer, material(answers={"fresh": True}).to_answer) == (3, len(golden()))
    alone = material(prompts={**files, "golden": False})
    assert (alone.prompts, alone.to_answer) == (3, 3)


def test_a_file_that_is_empty_or_missing_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    for name in ("empty.txt", "missing.txt"):
        nothing = material(prompts={"golden": False, "files": [{"path": str(tmp_path / name)}]})
        assert nothing == Material(0, 0, 0, PEOPLES.question, PEOPLES.answer)


def test_answers_to_made_up_prompts_ship_as_far_as_they_go() -> None:
    ships = shipped_count(MADE_UP_ANSWERS)

    def asked(**settings: object) -> int:
        return material(prompts={"synthetic": settings}).to_answer

    assert (asked(count=ships), asked(count=ships + 70)) == (0, 70)
    assert asked(count=ships, top_p=0.5) == ships
    longer = material(answers={"max_tokens": 400}, prompts={"synthetic": {"count": ships}})
    assert longer.to_answer == longer.prompts
    assert material(seed=1, prompts={"synthetic": {"count": ships}}).to_answer == ships


def test_the_limit_counts_training_prompts_of_all_sources() -> None:
    held_out = sum(prompt.split == "held-out" for prompt in golden())
    limited = material(prompts={"limit": 10})
    assert (limited.training, limited.held_out) == (10, held_out)


def test_an_exchange_is_as_long_as_its_sources_make_it() -> None:
    assert material().exchange == PEOPLES.question + PEOPLES.answer
    mixed = material(prompts={"synthetic": {"count": 160}})
    assert mixed.answer == pytest.approx((PEOPLES.answer + MADE_UP.answer) / 2)
    assert material(prompts={"synthetic": {"count": 160}, "limit": 200}).answer == pytest.approx(
        (4 * PEOPLES.answer + MADE_UP.answer) / 5
    )
    assert mixed.question == pytest.approx((PEOPLES.question + MADE_UP.question) / 2)
