"""Tests of the answers that ship with potstill: how they are made, and when they are used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from answers.fakes import World, lines_of, run_with
from potstill.answers import Answer, read_answers, write_answers, writing
from potstill.answers.settings import settings_of
from potstill.answers.ship import ship
from potstill.answers.shipped import (
    GOLDEN_ANSWERS,
    MADE_UP_ANSWERS,
    package_folder,
    prompts_hash,
    read_rows,
    shipped_answers,
    shipped_count,
    text_hash,
)
from potstill.models.catalogue import entry_named
from potstill.problem import Problem
from potstill.prompts import Prompt, golden, synthetic
from potstill.recipe import Recipe
from potstill.run import Run


def written(run: Run) -> list[Answer]:
    with run.building("answers", "1") as folder:
        write_answers(run, folder)
    return read_answers(run.stage("answers") / "answers.jsonl")


@pytest.fixture
def package(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder with answers of the fake teacher, made the way maintainers make them."""
    folder = tmp_path / "package"
    folder.mkdir()
    run = run_with(tmp_path / "fresh", golden(), answers={"fresh": True})
    written(run)
    assert ship(run.folder, folder) == 200
    monkeypatch.setattr(writing, "package_folder", lambda: folder)
    world.opened, world.asked = 0, []
    return folder


def test_shipped_answers_are_those_the_teacher_would_write(tmp_path: Path, package: Path, world: World) -> None:
    run = run_with(tmp_path / "run", golden())
    answers = written(run)
    assert answers == read_answers(tmp_path / "fresh" / "answers" / "answers.jsonl")
    assert world.opened == 0
    assert lines_of(run)[0].startswith("answers: 200 of qwen2.5-coder-0.5b-instruct ship with potstill and are used")


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"temperature": 1.0}, "they were written with temperature = 0.7"),
        ({"top_p": 0.5, "context": 1024}, "they were written with top_p = 0.8, context = 768"),
        ({"fresh": True}, ""),
    ],
)
def test_other_settings_are_written_anew(
    tmp_path: Path, package: Path, world: World, answers: dict[str, Any], reason: str
) -> None:
    run = run_with(tmp_path / "run", golden()[:5], answers=answers)
    written(run)
    assert len(world.asked) == 5
    assert reason in lines_of(run)[0]


def test_other_teacher_writes_anew(tmp_path: Path, package: Path, world: World) -> None:
    world.sha256 = "e" * 64
    run = run_with(tmp_path / "run", golden()[:5])
    written(run)
    assert len(world.asked) == 5
    assert "they are of another teacher, qwen2.5-coder-0.5b-instruct" in lines_of(run)[0]


def test_changed_prompt_alone_is_written_anew(tmp_path: Path, package: Path, world: World) -> None:
    prompts = golden()[:5]
    prompts[2] = replace(prompts[2], text="换了一个问题")
    answers = written(run_with(tmp_path / "run", prompts))
    assert world.asked == ["换了一个问题"]
    assert [one.prompt for one in answers] == prompts


def test_slots_and_seed_do_not_matter(tmp_path: Path, package: Path, world: World) -> None:
    written(run_with(tmp_path / "run", golden()[:5], seed=7, answers={"slots": 2}))
    assert world.opened == 0


def test_shipping_what_was_shipped_is_refused(tmp_path: Path, package: Path) -> None:
    run = run_with(tmp_path / "run", golden())
    written(run)
    with pytest.raises(Problem, match="used the answers that ship already"):
        ship(run.folder, package)


def test_shipping_with_a_gap_is_refused(tmp_path: Path, world: World) -> None:
    world.silent = {golden()[3].text}
    run = run_with(tmp_path / "run", golden())
    written(run)
    with pytest.raises(Problem, match=f"has no answer to {golden()[3].id}"):
        ship(run.folder, tmp_path)
    assert not list(tmp_path.glob("*_answers*"))


@pytest.mark.parametrize("name", [GOLDEN_ANSWERS, MADE_UP_ANSWERS])
def test_the_package_s_answers_fit_its_teacher_and_its_defaults(name: str) -> None:
    """Else everyone's first run would write for minutes or hours what could have been shipped."""
    origin = json.loads((package_folder() / f"{name}.json").read_text(encoding="utf-8"))
    rows = read_rows(package_folder() / f"{name}.jsonl")
    recipe = Recipe.model_validate({"name": "defaults"})
    entry = entry_named(recipe.teacher.model)
    assert entry is not None and origin["teacher_sha256"] == entry.sha256
    assert (origin["settings"], origin["seed"]) == (settings_of(recipe.answers), recipe.seed)
    assert len({row["id"] for row in rows}) == len(rows) == origin["answers"] == shipped_count(name)
    assert all(row["text"].strip() and row["tokens"] > 0 and row["finish"] in ("stop", "length") for row in rows)


def test_the_package_s_answers_are_to_its_prompts() -> None:
    origin = json.loads((package_folder() / f"{GOLDEN_ANSWERS}.json").read_text(encoding="utf-8"))
    rows = read_rows(package_folder() / f"{GOLDEN_ANSWERS}.jsonl")
    assert origin["prompts_sha256"] == prompts_hash(golden())
    assert {row["id"]: row["prompt_sha256"] for row in rows} == {one.id: text_hash(one.text) for one in golden()}


def test_the_package_s_answers_to_made_up_prompts_are_to_those_it_makes_up() -> None:
    origin = json.loads((package_folder() / f"{MADE_UP_ANSWERS}.json").read_text(encoding="utf-8"))
    rows = read_rows(package_folder() / f"{MADE_UP_ANSWERS}.jsonl")
    made_up = {text_hash(attempt["text"]) for attempt in synthetic.shipped(origin["teacher_sha256"]).values()}
    assert {row["prompt_sha256"] for row in rows} <= made_up


def test_answers_to_made_up_prompts_ship_beside_the_golden_ones(tmp_path: Path, package: Path, world: World) -> None:
    made_up = [
        Prompt(f"synthetic-{one}", f"第{one}个问题是什么？", "office", f"synthetic:office-zh-{one}", "train")
        for one in (1, 2)
    ]
    run = run_with(tmp_path / "made", [*golden()[:3], *made_up])
    with pytest.raises(Problem, match="has no answer to made-up prompts"):
        ship(tmp_path / "fresh", package, MADE_UP_ANSWERS)
    fresh = written(run)
    assert ship(run.folder, package, MADE_UP_ANSWERS) == 2
    world.opened, world.asked = 0, []
    again = run_with(tmp_path / "again", [*golden()[:3], *made_up])
    assert written(again) == fresh and world.opened == 0
    with pytest.raises(Problem, match="used the answers that ship already"):
        ship(again.folder, package, MADE_UP_ANSWERS)
    others, why_not = shipped_answers(
        package, [replace(made_up[0], text="换了")], world.sha256, settings_of(run.recipe.answers)
    )
    assert (others, why_not) == ({}, "they are to other prompts")
