"""One thing the teacher is asked, and the file format that holds many of them.

In:  JSON lines that this stage wrote.
Out: `Prompt`s; the golden 200 that ship with potstill.
Does not know: where other prompts come from, who answers them.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from potstill.problem import Problem
from potstill.run import write_text

Split = Literal["train", "held-out"]
GOLDEN, SYNTHETIC = "golden", "synthetic"


@dataclass(frozen=True)
class Prompt:
    """A question. Held-out ones measure and never train."""

    id: str
    """Unique in a run, and the same for the same text whatever else is in the run."""
    text: str
    """Normalised, not empty."""
    category: str
    source: str
    """`golden`; file name and line; or `synthetic:` with kind and number."""
    split: Split
    given: str | None = None
    """An answer that came with the prompt; the teacher is not asked."""


def is_made_up(prompt: Prompt) -> bool:
    """True for what the teacher wrote in a user's place."""
    return prompt.source.startswith(f"{SYNTHETIC}:")


def read_prompts(path: Path) -> list[Prompt]:
    """What `write_prompts` wrote. Raises: Problem naming file and line where it is missing or damaged."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{path}: cannot be read ({error})", "Run the stage `prompts` again.") from None
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            prompts.append(Prompt(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise Problem(f"{path}:{number}: damaged ({error})", "Run the stage `prompts` again.") from None
    return prompts


def write_prompts(path: Path, prompts: Iterable[Prompt]) -> None:
    """Write prompts as JSON lines, whole or not at all."""
    write_text(path, "".join(json.dumps(vars(prompt), ensure_ascii=False) + "\n" for prompt in prompts))


def golden() -> list[Prompt]:
    """The golden 200: 160 to train with, 40 held out, in a fixed order."""
    text = (importlib.resources.files("potstill.prompts") / "golden.jsonl").read_text(encoding="utf-8")
    return [Prompt(**json.loads(line), source=GOLDEN) for line in text.split("\n") if line]
