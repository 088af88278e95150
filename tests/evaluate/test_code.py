"""Grading of model-written code: the extremes come out as they must."""

from __future__ import annotations

import pytest

from potstill.evaluate.code import add_code, code_tasks, extract_code, grade
from potstill.evaluate.sandbox import Limits, confinement
from potstill.evaluate.scorecard import Scorecard

LIMITS = Limits(cpu_s=5, wall_s=15, memory_mb=400, processes=8, file_mb=8, output_kb=64)
needs_walls = pytest.mark.skipif(not confinement().available, reason=f"no sandbox: {confinement().reason}")


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("好的：\n```python\nx = 1\n```\n说明\n```python\ny = 2\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```Python\r\nx = 1\n", "x = 1\n"),
        ("x = 1", "x = 1"),
    ],
)
def test_the_first_block_is_the_program(reply: str, code: str) -> None:
    assert extract_code(reply) == code


@needs_walls
def test_reference_solutions_run_and_pass() -> None:
    for task in code_tasks()[::10]:
        result = grade(task, f"```python\n{task.solution}```", LIMITS)
        assert (result.runs, result.passes, result.error) == (True, True, "")


@needs_walls
def test_a_last_line_that_the_program_left_open_fails_nobody() -> None:
    task = code_tasks()[0]
    chatty = grade(task, f"```python\n{task.solution}\nfor i in range(3):\n    print(i, end=' ')\n```", LIMITS)
    assert (chatty.runs, chatty.passes, chatty.error) == (True, True, "")


@needs_walls
@pytest.mark.parametrize(
    ("reply", "runs"),
    [
        ("", False),
        ("的的的的的的的的的的", False),
        ("```python\nimport os\nos._exit(0)\n```", True),
        ("```python\nraise SystemExit(0)\n```", True),
        ("```python\nwhile True: pass\n```", False),
        ("```python\ndef other(): return 1\n```", True),
        ("```python\nimport socket\nsocket.create_connection(('127.0.0.1', 80))\n```", False),
    ],
)
def test_hostile_and_empty_replies_never_pass(reply: str, runs: bool) -> None:
    limits = Limits(cpu_s=1, wall_s=15, memory_mb=400, processes=8, file_mb=8, output_kb=64)
    result = grade(code_tasks()[0], reply, limits)
    assert (result.runs, result.passes) == (runs, False)
    assert result.error


@needs_walls
def test_rows_count_tasks() -> None:
    tasks = code_tasks()[:4]
    results = [grade(task, task.solution if place else "def", LIMITS) for place, task in enumerate(tasks)]
    card = Scorecard()
    add_code(card, "student", results)
    assert card.measures["code.passes"]["student"].value == 0.75
    assert card.measures["code.runs"]["student"].n == 4
