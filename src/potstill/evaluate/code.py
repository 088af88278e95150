"""Code: our own held-out Python tasks, answered by a model, run in the sandbox.

In:  a model's replies to `code_tasks.jsonl`.
Out: for each task, whether the program runs and whether it passes the hidden checks; scorecard rows.
Does not know: how replies are written, which model wrote them.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from potstill.evaluate.sandbox import Limits, run_python
from potstill.evaluate.scorecard import Scorecard, proportion
from potstill.progress import Task as Bar
from potstill.recipe import EvaluateSection

FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class CodeTask:
    """One task: what is asked, and the asserts that tell whether it was done."""

    id: str
    prompt: str
    checks: tuple[str, ...]
    solution: str


@dataclass(frozen=True)
class CodeResult:
    """What became of one reply.

    Args:
        runs: the program alone ends without an error: the published measure. passes: and so do the hidden checks.
        error: last line of what went wrong; empty where nothing did.
    """

    id: str
    reply: str
    runs: bool
    passes: bool
    error: str


def program_limits(section: EvaluateSection) -> Limits:
    """What a program may use: the recipe's time and memory, and of the rest far more than any task needs."""
    seconds = section.code_seconds
    return Limits(seconds, 3 * seconds, section.code_memory_mb, processes=16, file_mb=16, output_kb=256)


def code_tasks() -> list[CodeTask]:
    """The 50 tasks that ship with potstill."""
    text = files("potstill.evaluate").joinpath("code_tasks.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [CodeTask(row["id"], row["prompt"], tuple(row["checks"]), row["solution"]) for row in rows]


def extract_code(reply: str) -> str:
    """The first fenced block, or the whole reply where there is none; an unclosed fence ends with the reply."""
    found = FENCE.search(reply)
    return found.group(1) if found else reply


def grade(task: CodeTask, reply: str, limits: Limits, *, unsafe: bool = False) -> CodeResult:
    """Run the program alone, then with the checks behind it. `unsafe`: without walls where there can be none.

    Passing means that a fresh secret is printed after the last check: exit code 0 alone can be had by leaving early.

    Raises: Problem where this machine cannot confine a program.
    """
    program = extract_code(reply)
    if not program.strip():
        return CodeResult(task.id, reply, False, False, "empty")
    alone = run_python(program, limits, unsafe=unsafe)
    if alone.status != "ok":
        # The checks stand behind the program: where it fails, they are never reached.
        return CodeResult(task.id, reply, False, False, _last_line(alone.stderr) or alone.status)
    secret = secrets.token_hex(16)
    checked = run_python("\n".join([program, *task.checks, f"print({secret!r})"]), limits, unsafe=unsafe)
    # Behind whatever the program left on its last line without ending it.
    passes = checked.status == "ok" and checked.stdout.rstrip("\n").endswith(secret)
    return CodeResult(task.id, reply, True, passes, "" if passes else _last_line(checked.stderr) or checked.status)


def grade_all(
    tasks: Sequence[CodeTask], replies: Sequence[str], limits: Limits, bar: Bar, *, unsafe: bool = False
) -> list[CodeResult]:
    """Every reply's result, in the order of the tasks."""
    results = []
    for task, reply in zip(tasks, replies, strict=True):
        results.append(grade(task, reply, limits, unsafe=unsafe))
        bar.advance()
    return results


def add_code(card: Scorecard, model: str, results: Sequence[CodeResult], suffix: str = "") -> None:
    """Rows code.runs and code.passes (with a suffix for somebody else's tasks); intervals over tasks."""
    card.add(f"code.runs{suffix}", model, proportion(sum(result.runs for result in results), len(results)))
    card.add(f"code.passes{suffix}", model, proportion(sum(result.passes for result in results), len(results)))


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else ""
