"""The default teacher's answers to golden and made-up prompts; they ship, since writing takes minutes to hours.

In:  the package's `golden_answers.jsonl` and `made_up_answers.jsonl`, and a `.json` beside each: how they were made.
Out: answers for those prompts that they fit, or why none does.
Does not know: engines, run folders.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Any

from potstill.answers.answer import Answer
from potstill.answers.settings import NAMES, Settings, sampling_of
from potstill.prompts import Prompt

GOLDEN_ANSWERS, MADE_UP_ANSWERS = "golden_answers", "made_up_answers"
"""Names of both sets' files."""


def text_hash(text: str) -> str:
    """16 hexadecimal digits that stand for a prompt's text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def prompts_hash(prompts: Iterable[Prompt]) -> str:
    """SHA-256 over ids and texts, in order."""
    return hashlib.sha256("".join(f"{one.id}\0{one.text}\0" for one in prompts).encode()).hexdigest()


def package_folder() -> Traversable:
    """Where the shipped answers lie."""
    return importlib.resources.files("potstill.answers")


def shipped_answers(
    folder: Traversable, prompts: Sequence[Prompt], teacher_sha256: str, settings: Settings
) -> tuple[dict[str, Answer], str]:
    """Answers by prompt id to those of `prompts` that are answered here; and why there are none, '' if there are.

    Args:
        folder: with both files of a set, or without either.
        teacher_sha256: identity of the teacher that would write otherwise.
        settings: as `settings_of` gives them.
    """
    found: dict[str, Answer] = {}
    reasons = []
    for name in (GOLDEN_ANSWERS, MADE_UP_ANSWERS):
        answers, why_not = _of_set(folder, name, prompts, teacher_sha256, settings)
        found |= answers
        reasons.append(why_not)
    return found, "" if found else next((reason for reason in reasons if reason), "they are to other prompts")


def _of_set(
    folder: Traversable, name: str, prompts: Sequence[Prompt], teacher_sha256: str, settings: Settings
) -> tuple[dict[str, Answer], str]:
    if not (folder / f"{name}.json").is_file():
        return {}, "none ship with this potstill"
    origin: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    if origin["teacher_sha256"] != teacher_sha256:
        return {}, f"they are of another teacher, {origin['teacher']}"
    if others := _other_settings(origin, settings):
        return {}, f"they were written with {', '.join(others)}"
    known = {(row["id"], row["prompt_sha256"]): row for row in read_rows(folder / f"{name}.jsonl")}
    return {
        prompt.id: _answer(prompt, row, sampling_of(settings, origin["seed"], prompt.id))
        for prompt in prompts
        if prompt.given is None and (row := known.get((prompt.id, text_hash(prompt.text))))
    }, ""


def _other_settings(origin: Mapping[str, Any], settings: Settings) -> list[str]:
    return [f"{name} = {origin['settings'][name]}" for name in NAMES if origin["settings"][name] != settings[name]]


def shipped_count(name: str, settings: Settings | None = None) -> int:
    """Answers of a set; of those written with `settings` alone, if given."""
    path = package_folder() / f"{name}.json"
    origin: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"answers": 0}
    return 0 if settings and path.is_file() and _other_settings(origin, settings) else int(origin["answers"])


def read_rows(file: Traversable) -> list[dict[str, Any]]:
    """Lines of a set's file: `id`, `prompt_sha256`, `text`, `finish`, `tokens`."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def _answer(prompt: Prompt, row: Mapping[str, Any], sampling: Settings) -> Answer:
    return Answer(prompt, row["text"], row["finish"], row["tokens"], sampling)
