"""The questions of evaluation sets, so that nobody trains on them.

In:  package data of the stage `evaluate`, read as files (its code is not imported); the recipe's `[[evaluate.files]]`.
Out: texts by name of the set; the lines of an evaluation file, which tell what is wrong with them.
Does not know: how the sets are scored, prompts.
"""

from __future__ import annotations

import codecs
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.problem import Problem
from potstill.recipe import EvaluationFile

QUESTION_FIELDS = ("prompt", "question")
PROTECTED = {
    "humaneval": ("prompt",),
    "mbpp": ("text", "prompt"),
    "xcopa": ("premise",),
    "cmmlu": ("question", "Question"),
}
"""Format of a file → where its lines hold what is asked; the first field that is there counts."""


def evaluation_sets(files: Sequence[EvaluationFile] = ()) -> dict[str, list[str]]:
    """Name of the set → its questions: every `*.jsonl` beside the stage `evaluate`, and the given files.

    A file's own `limit` doesn't count here: with another limit, its other lines will be asked.

    Raises: KeyError where a set of ours has a line without a question, Problem where a given one has: it would be
    trained on unnoticed.
    """
    folder = importlib.resources.files("potstill") / "evaluate"
    ours = [file for file in folder.iterdir() if file.name.endswith(".jsonl")] if folder.is_dir() else []
    ours.sort(key=lambda file: file.name)
    sets = {file.name.removesuffix(".jsonl"): _questions(file.read_text("utf-8")) for file in ours}
    for file in files:
        asked = [line.text(*PROTECTED[file.format]) for line in read_lines(file.path, file.format)]
        sets.setdefault(file.path.name, []).extend(asked)
    return sets


def _questions(text: str) -> list[str]:
    rows = [json.loads(line) for line in text.split("\n") if line]
    return [row[next((field for field in QUESTION_FIELDS if field in row), QUESTION_FIELDS[0])] for row in rows]


@dataclass(frozen=True)
class Line:
    """One line of an evaluation file: `number` counts from 1, `format` says whose `fields` it should have."""

    path: Path
    number: int
    format: str
    fields: Mapping[str, Any]

    def value(self, *names: str) -> Any:
        """What stands in the first of these fields that is there. Raises: Problem where none is."""
        for name in names:
            if name in self.fields:
                return self.fields[name]
        raise self.problem(f"no {' or '.join(f'`{name}`' for name in names)} among {list(self.fields)}")

    def text(self, *names: str) -> str:
        """The same for a field that must hold text. Raises: Problem where it holds none."""
        value = self.value(*names)
        name = next(name for name in names if name in self.fields)
        if not isinstance(value, str):
            raise self.problem(f"`{name}` is not text but a {type(value).__name__}")
        if not value.strip():
            raise self.problem(f"`{name}` is empty")
        return value

    def problem(self, why: str) -> Problem:
        """What to raise about this line."""
        remedy = f'Mend the line, or give the file its true format under [[evaluate.files]] (now "{self.format}").'
        return Problem(f"{self.path}:{self.number}: {why}", remedy)


def read_lines(path: Path, kind: str) -> list[Line]:
    """The lines of a JSONL file of that format that aren't blank. Raises: Problem naming file and line."""
    try:
        content = path.read_bytes()
    except OSError as error:
        remedy = "Correct its path under [[evaluate.files]] in the recipe."
        raise Problem(f"{path}: cannot be read ({error.strerror})", remedy) from None
    rows = enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1)
    lines = [Line(path, number, kind, _object(path, number, row)) for number, row in rows if row.strip()]
    if not lines:
        raise Problem(f"{path}: holds no lines", "Fill it, or take it out of [[evaluate.files]].")
    return lines


def _object(path: Path, number: int, row: bytes) -> dict[str, Any]:
    try:
        value = json.loads(row.decode())
    except UnicodeDecodeError:
        why = "not UTF-8"
    except (ValueError, RecursionError) as error:
        why = f"not valid JSON ({error})"
    else:
        if isinstance(value, dict):
            return value
        why = "not a JSON object"
    raise Problem(f"{path}:{number}: {why}", "Give a JSON object a line, in UTF-8.")
