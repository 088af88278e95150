"""The held-out code tasks: every reference solution passes, no empty answer does, nothing overlaps training.

In:  the package's code_tasks.jsonl and golden.jsonl.
Out: pass or fail.
Does not know: the sandbox (only our own reference solutions run here), models, scores.
"""

from __future__ import annotations

import ast
import json
from importlib.resources import files
from itertools import combinations
from typing import Any

import pytest

Task = dict[str, Any]

# What an answer without a thought returns; none may pass a task. `first` hands back its first argument.
STUB_RETURNS = ["None", "''", "[]", "{}", "0", "1", "True", "False", "first"]


def read_lines(*parts: str) -> list[Task]:
    text = files("potstill").joinpath(*parts).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


TASKS = read_lines("evaluate", "code_tasks.jsonl")
every_task = pytest.mark.parametrize("task", TASKS, ids=[task["id"] for task in TASKS])


def failing_checks(code: str, task: Task) -> list[str]:
    """The checks that fail after `code` ran in a namespace of its own."""
    namespace: dict[str, Any] = {"__name__": "answer"}
    exec(code, namespace)
    failed = []
    for check in task["checks"]:
        try:
            exec(check, namespace)
        except Exception:
            failed.append(check)
    return failed


def trigrams(text: str) -> set[str]:
    joined = "".join(text.split())
    return {joined[start : start + 3] for start in range(len(joined) - 2)}


def jaccard(left: set[str], right: set[str]) -> float:
    return len(left & right) / max(1, len(left | right))


def test_there_are_fifty_with_ids_names_and_prompts_of_their_own() -> None:
    assert [task["id"] for task in TASKS] == [f"code-task-{number:02d}" for number in range(1, 51)]
    assert len({task["entry_point"] for task in TASKS}) == 50
    assert len({task["prompt"] for task in TASKS}) == 50


@every_task
def test_the_line_is_complete_and_the_prompt_names_what_is_checked(task: Task) -> None:
    assert set(task) == {"id", "topic", "prompt", "entry_point", "checks", "solution"}
    assert task["entry_point"] in task["prompt"]
    assert 4 <= len(task["checks"]) <= 8
    for check in task["checks"]:
        (statement,) = ast.parse(check).body
        assert isinstance(statement, ast.Assert)
        assert task["entry_point"] in check


@every_task
def test_the_reference_solution_passes_its_checks(task: Task) -> None:
    assert failing_checks(task["solution"], task) == []


@every_task
def test_no_check_passes_where_nothing_is_returned(task: Task) -> None:
    stub = f"def {task['entry_point']}(*arguments):\n    return None\n"
    assert failing_checks(stub, task) == task["checks"]


@every_task
@pytest.mark.parametrize("returned", STUB_RETURNS)
def test_no_constant_answer_passes_a_task(task: Task, returned: str) -> None:
    stub = f"def {task['entry_point']}(first=None, *others):\n    return {returned}\n"
    assert failing_checks(stub, task)


def test_the_checks_are_hidden_from_the_prompt() -> None:
    for task in TASKS:
        shown = [check for check in task["checks"] if check.removeprefix("assert ") in task["prompt"]]
        assert shown == [], task["id"]


def test_no_prompt_resembles_another() -> None:
    grams = {task["id"]: trigrams(task["prompt"]) for task in TASKS}
    close = [pair for pair in combinations(grams, 2) if jaccard(grams[pair[0]], grams[pair[1]]) >= 0.4]
    assert close == []


def test_no_prompt_overlaps_the_golden_prompts() -> None:
    golden = {prompt["id"]: trigrams(prompt["text"]) for prompt in read_lines("prompts", "golden.jsonl")}
    assert golden
    for task in TASKS:
        mine = trigrams(task["prompt"])
        assert [name for name, theirs in golden.items() if jaccard(mine, theirs) >= 0.4] == [], task["id"]


def test_no_golden_prompt_asks_for_the_same_function() -> None:
    texts = [prompt["text"] for prompt in read_lines("prompts", "golden.jsonl")]
    asked_twice = [task["entry_point"] for task in TASKS if any(task["entry_point"] in text for text in texts)]
    assert asked_twice == []
