"""Tests of the stage `prompts`: what it leaves in its folder, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from listening import Listening
from potstill.problem import Problem
from potstill.prompts import Prompt, collect, golden, read_prompts, write_prompts
from potstill.prompts.evaluation import evaluation_sets
from potstill.recipe import Recipe
from potstill.run import Run, read_json


def collected(folder: Path, **prompts: Any) -> tuple[list[Prompt], dict[str, Any], list[str]]:
    folder.mkdir(exist_ok=True)
    progress = Listening()
    recipe = Recipe.model_validate({"name": "t", "seed": prompts.pop("seed", 0), "prompts": prompts})
    collect(Run(folder, recipe, progress=progress), folder)
    return read_prompts(folder / "prompts.jsonl"), read_json(folder / "report.json"), progress.lines


def write_lines(path: Path, *texts: str) -> Path:
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return path


def test_golden_prompts_alone(tmp_path: Path) -> None:
    prompts, report, lines = collected(tmp_path)
    assert prompts == golden()
    assert report["splits"] == {"train": 160, "held-out": 40}
    assert lines == ["prompts: 200 of 200 kept, 160 to train with and 40 held out"]


def test_everything_read_is_kept_or_counted(tmp_path: Path) -> None:
    held_out = next(one for one in golden() if one.split == "held-out")
    evaluated = evaluation_sets()["commonsense"][0]
    own = write_lines(
        tmp_path / "own.jsonl",
        "怎样给多肉植物换盆？",
        "怎样给多肉植物换盆？",
        "怎样给多肉植物换盆？！",
        f"{held_out.text} 谢谢",
        f"请回答：{evaluated}",
    )
    with own.open("a") as file:
        file.write("{\n")
    prompts, report, lines = collected(tmp_path / "out", files=[{"path": own}], skip_bad=True, near_duplicate=0.7)
    assert [one.text for one in prompts if one.source != "golden"] == ["怎样给多肉植物换盆？"]
    assert report["read"] == 206 and report["kept"] == 201
    assert report["dropped"] == {
        "exact": 1,
        "near": 1,
        "overlap": {"commonsense": 1, "held-out prompts": 1},
        "limit": 0,
        "bad": 1,
    }
    assert report["bad_lines"][0]["file"] == "own.jsonl" and report["bad_lines"][0]["line"] == "6"
    assert report["sources"] == {"read": {"golden": 200, "own.jsonl": 5}, "kept": {"golden": 200, "own.jsonl": 1}}
    assert report["categories"]["own"] == {"train": 1}
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert sorted((one["source"], one["reason"]) for one in dropped) == [
        ("own.jsonl:2", "exact"),
        ("own.jsonl:3", "near"),
        ("own.jsonl:4", "overlap"),
        ("own.jsonl:5", "overlap"),
    ]
    assert len(lines) == 1 and "bad lines: 1" in lines[0] and "overlap with commonsense: 1" in lines[0]


def test_golden_held_out_prompts_are_kept_away_even_from_runs_without_golden_prompts(tmp_path: Path) -> None:
    held_out = next(one for one in golden() if one.split == "held-out")
    own = write_lines(tmp_path / "own.jsonl", held_out.text, "怎样给多肉植物换盆？")
    prompts, report, lines = collected(tmp_path / "out", files=[{"path": own}], golden=False)
    assert [one.text for one in prompts] == ["怎样给多肉植物换盆？"]
    assert report["dropped"]["overlap"] == {"held-out prompts": 1}
    assert "nothing is held out" in lines[1]


def test_bad_lines_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.txt"
    first.write_text('{"prompt": ""}\n' * 12)
    second.write_bytes(b"ok\n\xff\xfe\n")
    with pytest.raises(Problem) as caught:
        collected(tmp_path / "out", files=[{"path": first}, {"path": second}])
    message = str(caught.value)
    assert message.startswith("13 lines hold no prompt:")
    assert f"{first}:1: `prompt` is empty" in message and "and 3 more" in message and "--skip-bad" in message
    assert not (tmp_path / "out" / "prompts.jsonl").exists()


@pytest.mark.parametrize("name", ["own.txt", "own.jsonl"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("\n\n")
    with pytest.raises(Problem, match=rf"{name}: holds no prompts"):
        collected(tmp_path / "out", files=[{"path": tmp_path / name}])


def test_nothing_left_to_train_with(tmp_path: Path) -> None:
    own = write_lines(tmp_path / "own.jsonl", *(one.text for one in golden() if one.split == "held-out"))
    with pytest.raises(Problem, match=r"None of 40 prompts is left .*overlap with held-out prompts: 40"):
        collected(tmp_path / "out", files=[{"path": own}], golden=False)


def test_held_out_share_and_ids_depend_on_the_text_alone(tmp_path: Path) -> None:
    texts = [f"第{place}题：{place * 7919 % 104729}和{place * 104729 % 7919}谁大？" for place in range(300)]
    files = [{"path": write_lines(tmp_path / "own.jsonl", *texts), "held_out_share": 0.2}]
    prompts, _, _ = collected(tmp_path / "one", files=files, golden=False, near_duplicate=1.0)
    split = {one.text: (one.id, one.split) for one in prompts}
    assert len(split) == len({name for name, _ in split.values()}) == 300
    assert 30 <= sum(one == "held-out" for _, one in split.values()) <= 90
    write_lines(tmp_path / "own.jsonl", *texts[::-1][:100])
    again, _, _ = collected(tmp_path / "two", files=files, golden=False, near_duplicate=1.0)
    assert all(split[one.text] == (one.id, one.split) for one in again)


def test_given_answer_category_and_source_come_along(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("q,a,category\n怎样给多肉植物换盆？,先松土。,garden\n")
    files = [{"path": own, "prompt_field": "q", "answer_field": "a"}]
    prompts, report, _ = collected(tmp_path / "out", files=files)
    assert (prompts[-1].given, prompts[-1].category, prompts[-1].source) == ("先松土。", "garden", "own.csv:2")
    assert report["given"] == 1


def test_limit(tmp_path: Path) -> None:
    prompts, report, _ = collected(tmp_path, limit=16)
    assert report["splits"] == {"train": 16, "held-out": 40}
    assert report["dropped"]["limit"] == 144
    assert report["categories"]["code"]["train"] == 4
    assert [one.id for one in prompts] == [one.id for one in golden() if one in prompts]


def test_prompts_read_back_as_written(tmp_path: Path) -> None:
    prompts = [
        Prompt("a", "甲\u2028\n乙", "own", "own.txt:1", "held-out", "答"),
        Prompt("b", "乙", "own", "x:2", "train"),
    ]
    write_prompts(tmp_path / "prompts.jsonl", prompts)
    assert read_prompts(tmp_path / "prompts.jsonl") == prompts


@pytest.mark.parametrize("line", ["{", '{"id": "a"}', '{"id": "a", "new": 1}'])
def test_damaged_prompts_are_told_by_line(tmp_path: Path, line: str) -> None:
    write_prompts(tmp_path / "prompts.jsonl", golden()[:2])
    with (tmp_path / "prompts.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(Problem, match=r"prompts\.jsonl:3: damaged"):
        read_prompts(tmp_path / "prompts.jsonl")
