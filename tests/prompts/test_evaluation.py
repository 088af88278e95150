"""The sets that no training prompt may overlap with: ours, and those the recipe names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from potstill.pipeline import STAGES, fingerprints
from potstill.problem import Problem
from potstill.progress import Silent
from potstill.prompts import collect, read_prompts
from potstill.prompts.evaluation import evaluation_sets, read_lines
from potstill.recipe import EvaluationFile, Recipe, validate_recipe
from potstill.run import Run, read_json

ROWS = {
    "humaneval": {"prompt": "def twice(number):\n", "question": "not this", "entry_point": "twice"},
    "mbpp": {"text": "Write a function to double a number.", "prompt": "not this"},
    "xcopa": {"premise": "小猫碰倒了桌边的花瓶。", "question": "effect"},
    "cmmlu": {"question": "杂交水稻之父是谁", "answer": "A"},
}
ASKED = {
    "humaneval": "def twice(number):\n",
    "mbpp": "Write a function to double a number.",
    "xcopa": "小猫碰倒了桌边的花瓶。",
    "cmmlu": "杂交水稻之父是谁",
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def given(path: Path, kind: str, **options: Any) -> EvaluationFile:
    return EvaluationFile.model_validate({"path": path, "format": kind, **options})


@pytest.mark.parametrize("kind", ROWS)
def test_every_format_is_protected_by_what_it_asks(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "own.jsonl", ROWS[kind], ROWS[kind])
    sets = evaluation_sets([given(path, kind, limit=1)])
    assert sets.pop("own.jsonl") == [ASKED[kind]] * 2  # a limit protects the others as well
    assert sets == evaluation_sets()


@pytest.mark.parametrize(
    ("kind", "row"),
    [("mbpp", {"prompt": "Triple it."}), ("cmmlu", {"Question": "Triple it."})],
)
def test_other_spellings(tmp_path: Path, kind: str, row: dict[str, str]) -> None:
    assert evaluation_sets([given(write(tmp_path / "own.jsonl", row), kind)])["own.jsonl"] == ["Triple it."]


def test_a_file_adds_to_what_has_its_name(tmp_path: Path) -> None:
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        files.append(given(write(tmp_path / folder / "own.jsonl", {"question": folder}), "cmmlu"))
    assert evaluation_sets(files)["own.jsonl"] == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"question": "effect"}, "no `premise` among ['question']"),
        ({"premise": 3}, "`premise` is not text but a int"),
        ({"premise": " "}, "`premise` is empty"),
        (["premise"], "not a JSON object"),
    ],
)
def test_a_line_that_asks_nothing_is_told(tmp_path: Path, row: Any, why: str) -> None:
    path = write(tmp_path / "own.jsonl", ROWS["xcopa"], row)
    with pytest.raises(Problem) as caught:
        evaluation_sets([given(path, "xcopa")])
    assert caught.value.what == f"{path}:2: {why}"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", ": holds no lines"),
        (b"\n \r\n", ": holds no lines"),
        (b"{}\n\n{\n", ":3: not valid JSON"),
        (b'{"a": "\xff"}\n', ":1: not UTF-8"),
    ],
)
def test_an_unreadable_file_is_told(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    with pytest.raises(Problem) as caught:
        read_lines(path, "cmmlu")
    assert caught.value.what.startswith(f"{path}{what}")
    with pytest.raises(Problem, match="cannot be read"):
        read_lines(tmp_path / "none.jsonl", "cmmlu")


def test_marks_and_line_ends_of_other_systems(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes('\ufeff{"question": "一\u2028二"}\r\n\r\n{"question": "三"}'.encode())
    lines = read_lines(path, "cmmlu")
    assert [(line.number, line.text("question")) for line in lines] == [(1, "一\u2028二"), (3, "三")]


def recipe(**parts: Any) -> Recipe:
    return validate_recipe(json.loads(json.dumps({"name": "t", **parts}, default=str)), "test")


@pytest.mark.parametrize("kind", ROWS)
def test_no_training_prompt_holds_a_question_of_a_file(tmp_path: Path, kind: str) -> None:
    own = write(tmp_path / "own.jsonl", {"prompt": f"请看：{ASKED[kind]}"}, {"prompt": "怎样给多肉植物换盆？"})
    files = [{"path": write(tmp_path / "set.jsonl", ROWS[kind]), "format": kind}]
    asked = recipe(prompts={"files": [{"path": own}], "golden": False}, evaluate={"files": files})
    collect(Run(tmp_path, asked, progress=Silent()), tmp_path)
    assert [one.text for one in read_prompts(tmp_path / "prompts.jsonl")] == ["怎样给多肉植物换盆？"]
    assert read_json(tmp_path / "report.json")["dropped"]["overlap"] == {"set.jsonl": 1}


def stale(folder: Path, before: Recipe, now: Recipe) -> set[str]:
    first, second = (fingerprints(Run(folder / "run", one, folder / "home")) for one in (before, now))
    return {name for name in first if first[name] != second[name]}


def test_another_file_makes_the_prompts_stale_another_limit_only_the_evaluation(tmp_path: Path) -> None:
    path = write(tmp_path / "set.jsonl", ROWS["cmmlu"])
    without, with_file, limited = (
        recipe(evaluate={"files": files})
        for files in ([], [{"path": path, "format": "cmmlu"}], [{"path": path, "format": "cmmlu", "limit": 5}])
    )
    everything = {stage.name for stage in STAGES}
    assert stale(tmp_path, without, with_file) == everything
    assert stale(tmp_path, with_file, limited) == {"evaluate", "report"}
    run = Run(tmp_path / "run", with_file, tmp_path / "home")
    before = fingerprints(run)
    write(path, {"question": "别的问题"})
    assert {name for name, now in fingerprints(run).items() if now != before[name]} == everything
