"""The questions of the evaluation sets that ship with potstill, so that nobody trains on them.

In:  package data of the stage `evaluate`, read as files; its code is not imported.
Out: texts by name of the set.
Does not know: how the sets are scored, prompts.
"""

from __future__ import annotations

import importlib.resources
import json

QUESTION_FIELDS = ("prompt", "question")


def evaluation_sets() -> dict[str, list[str]]:
    """Name of the set → its questions, for every `*.jsonl` beside the stage `evaluate`.

    Raises: KeyError where a set has a line without a question: it would be trained on unnoticed.
    """
    folder = importlib.resources.files("potstill") / "evaluate"
    files = [file for file in folder.iterdir() if file.name.endswith(".jsonl")] if folder.is_dir() else []
    files.sort(key=lambda file: file.name)
    return {file.name.removesuffix(".jsonl"): _questions(file.read_text("utf-8")) for file in files}


def _questions(text: str) -> list[str]:
    rows = [json.loads(line) for line in text.split("\n") if line]
    return [row[next((field for field in QUESTION_FIELDS if field in row), QUESTION_FIELDS[0])] for row in rows]
