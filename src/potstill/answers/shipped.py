"""The default teacher's answers to the golden prompts, which ship with potstill: writing them takes minutes.

In:  the package's `golden_answers.jsonl`, and `golden_answers.json`, which says how they were made.
Out: answers for those prompts that they fit, or why none does.
Does not know: engines, run folders.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Iterable, Mapping
from importlib.resources.abc import Traversable
from typing import Any

from potstill.answers.answer import Answer
from potstill.answers.settings import NAMES, Settings, sampling_of
from potstill.prompts import Prompt

ANSWERS_FILE, ORIGIN_FILE = "golden_answers.jsonl", "golden_answers.json"


def text_hash(text: str) -> str:
    """16 hexadecimal digits that stand for a prompt's text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def golden_hash(prompts: Iterable[Prompt]) -> str:
    """SHA-256 over ids and texts, in order."""
    return hashlib.sha256("".join(f"{one.id}\0{one.text}\0" for one in prompts).encode()).hexdigest()


def package_folder() -> Traversable:
    """Where the shipped answers lie."""
    return importlib.resources.files("potstill.answers")


def shipped_answers(
    folder: Traversable, prompts: Iterable[Prompt], teacher_sha256: str, settings: Settings
) -> tuple[dict[str, Answer], str]:
    """Answers by prompt id to those of `prompts` that are answered here; and why there are none, '' if there are.

    Args:
        folder: with both files, or without either.
        teacher_sha256: identity of the teacher that would write otherwise.
        settings: as `settings_of` gives them.
    """
    if not (folder / ORIGIN_FILE).is_file():
        return {}, "none ship with this potstill"
    origin: dict[str, Any] = json.loads((folder / ORIGIN_FILE).read_text(encoding="utf-8"))
    if origin["teacher_sha256"] != teacher_sha256:
        return {}, f"they are of another teacher, {origin['teacher']}"
    others = [f"{name} = {origin['settings'][name]}" for name in NAMES if origin["settings"][name] != settings[name]]
    if others:
        return {}, f"they were written with {', '.join(others)}"
    rows = [json.loads(line) for line in (folder / ANSWERS_FILE).read_text(encoding="utf-8").split("\n") if line]
    known = {(row["id"], row["prompt_sha256"]): row for row in rows}
    found = {
        prompt.id: _answer(prompt, row, sampling_of(settings, origin["seed"], prompt.id))
        for prompt in prompts
        if prompt.given is None and (row := known.get((prompt.id, text_hash(prompt.text))))
    }
    return found, "" if found else "they are to other prompts"


def _answer(prompt: Prompt, row: Mapping[str, Any], sampling: Settings) -> Answer:
    return Answer(prompt, row["text"], row["finish"], row["tokens"], sampling)
