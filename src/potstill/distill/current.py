"""The student as it is now, writing: its weights as a temporary GGUF, answered from by llama.cpp.

In:  a student in training, the folder of its tokenizer, a folder to write into.
Out: replies.
Does not know: what is asked, what the replies are for.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from potstill.distill.trained import plain_copy
from potstill.machine import usable_cores
from potstill.models.checkpoint import save_checkpoint
from potstill.models.engine import Messages, Reply, Sampling
from potstill.models.gguf import write_gguf
from potstill.models.team import Team, members_that_fit
from potstill.progress import Silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Request = tuple[Messages, Sampling]
FOLDER = "current"
"""Inside the stage's partial folder; never there for longer than a writing takes."""


class Writer(Protocol):
    """What a companion needs: the student's own words, by its weights of this moment."""

    def write(self, requests: Sequence[Request], context: int) -> list[Reply]:
        """A reply to each request, in their order."""


class CurrentEngine:
    """Writes with the student's current weights.

    The engines are a `Team`: every reply depends on nothing but weights, question and seed, so that a resumed
    training writes the same, and short answers run on every core at once.

    Args:
        student: the model in training, adapters included; it isn't changed.
        tokenizer: folder of its tokenizer.
        folder: the stage's partial folder.
    """

    def __init__(self, student: PreTrainedModel, tokenizer: Path, folder: Path) -> None:
        self.student, self.tokenizer, self.folder = student, tokenizer, folder / FOLDER
        shutil.rmtree(self.folder, ignore_errors=True)  # left by a killed process

    def write(self, requests: Sequence[Request], context: int) -> list[Reply]:
        """A reply to each request, in their order; `context` holds the longest prompt with its answer."""
        with self._open(context) as team:
            replies = dict(team.write(requests))
        return [replies[place] for place in range(len(requests))]

    @contextmanager
    def _open(self, context: int) -> Iterator[Team]:
        try:
            gguf = self._export()
            with Team(gguf, context=context, members=members_that_fit(gguf, usable_cores())) as team:
                gguf.unlink()  # read into memory by now
                yield team
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _export(self) -> Path:
        gguf, checkpoint = self.folder / "student-F16.gguf", self.folder / "checkpoint"
        save_checkpoint(plain_copy(self.student), self.tokenizer, checkpoint, torch.float16, "")
        write_gguf(checkpoint, gguf, "F16", metadata={"general.name": "student"}, progress=Silent())
        shutil.rmtree(checkpoint)
        return gguf
