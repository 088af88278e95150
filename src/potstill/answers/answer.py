"""A prompt with its answer, and the two files that hold many of them.

In:  answers, one at a time or all together.
Out: a log that survives a kill at any moment; a file of JSON lines in prompt order.
Does not know: who wrote the answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from potstill.problem import Problem
from potstill.prompts import Prompt
from potstill.run import Run, write_text


@dataclass(frozen=True)
class Answer:
    """What the student shall learn to say."""

    prompt: Prompt
    text: str
    finish: Literal["stop", "length", "given"]
    """stop: the teacher ended it. length: a limit cut it. given: it came with the prompt."""
    tokens: int
    """Teacher tokens; of a written answer the end-of-turn token counts."""
    sampling: Mapping[str, float | int] | None
    """Settings and seed of a written answer; None for a given one."""
    server: str | None = None
    """Model and address of the server that wrote it, on its own word; None: the teacher whose weights were verified."""


def read_answers(path: Path) -> list[Answer]:
    """Read `answers.jsonl`. Raises: Problem naming file and line where it is missing or damaged."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{path}: cannot be read ({error})", "Run the stage `answers` again.") from None
    answers = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            answers.append(_answer(line))
        except (ValueError, TypeError, KeyError) as error:
            what = f"{path}:{number}: damaged ({error})"
            raise Problem(what, "Delete its folder and run the stage `answers` again.") from None
    return answers


def answers_of(run: Run) -> list[Answer]:
    """The answers of a run, in prompt order. Raises: Problem as `read_answers`, or where the stage has not run."""
    return read_answers(run.stage("answers") / "answers.jsonl")


def save_answers(path: Path, answers: Iterable[Answer]) -> None:
    """Write `answers.jsonl`, whole or not at all."""
    write_text(path, "".join(_line(answer) for answer in answers))


class AnswerLog:
    """Finished answers in the order of finishing; what was appended is on the disk."""

    def __init__(self, path: Path) -> None:
        """Open the log at `path`; it need not exist."""
        self.path = path

    def finished(self) -> list[Answer]:
        """What is whole. A torn end (the process or the machine died while writing) is cut off the file."""
        if not self.path.exists():
            return []
        answers, whole = [], 0
        with self.path.open("r+b") as file:
            for line in file:
                try:
                    if not line.endswith(b"\n"):
                        break
                    answers.append(_answer(line.decode()))
                except (ValueError, TypeError, KeyError):
                    break
                whole += len(line)
            file.truncate(whole)
        return answers

    def append(self, answer: Answer) -> None:
        """Add one answer and wait until the disk has it. Raises: Problem where the disk takes no more."""
        try:
            with self.path.open("ab") as file:
                file.write(_line(answer).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            what = f"{self.path}: cannot be written ({error.strerror})"
            raise Problem(what, "Make room and run again: finished answers are kept.") from None

    def remove(self) -> None:
        """Take the log away, once its answers are elsewhere."""
        self.path.unlink(missing_ok=True)


def _line(answer: Answer) -> str:
    fields = asdict(answer)
    if answer.server is None:
        del fields["server"]
    return json.dumps(fields, ensure_ascii=False) + "\n"


def _answer(line: str) -> Answer:
    fields = json.loads(line)
    return Answer(**{**fields, "prompt": Prompt(**fields["prompt"])})
