"""Written answers as a unit of work, here and on another machine.

In:  a writer, or what another machine needs to open the same one; prompts that are written together.
Out: their answers, in the order of finishing.
Does not know: which machine this is, files, which answers there are already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.answers.answer import Answer
from potstill.answers.settings import answer_seed, sampling_for, sampling_of, settings_of
from potstill.answers.writers import Writer, open_writer
from potstill.engines import Worker
from potstill.machine import fastest_dtype
from potstill.problem import Problem
from potstill.progress import Silent
from potstill.prompts import Prompt
from potstill.recipe import AnswersSection

if TYPE_CHECKING:
    from potstill.models.teacher import Teacher


def worker(writer: Writer, settings: AnswersSection, seed: int) -> Worker[Sequence[Prompt], Answer]:
    """What writes the answers to some prompts, `seed` being the recipe's."""
    sampling, kept = sampling_for(settings, seed), settings_of(settings)

    def write(prompts: Sequence[Prompt]) -> Iterator[Answer]:
        seeds = [answer_seed(seed, prompt.id) for prompt in prompts]
        for place, reply in writer.write(prompts, sampling, seeds):
            own = sampling_of(kept, seed, prompts[place].id)
            yield Answer(prompts[place], reply.text, reply.finish, reply.tokens, own, writer.server)

    return write


@dataclass(frozen=True)
class Elsewhere:
    """Opens the same writer in another process: the teacher is found, or fetched, and verified there as here.

    Args:
        teacher: as the recipe names it. sha256: what it has to be. home: where teachers lie, on every machine.
        wanted: answers to write in all, which decides who writes. seed: the recipe's.
        dtype: what PyTorch computes in here; a probe elsewhere may answer differently.
    """

    teacher: str
    sha256: str
    home: Path
    settings: AnswersSection
    seed: int
    wanted: int
    dtype: str | None

    @contextmanager
    def __call__(self) -> Iterator[Worker[Sequence[Prompt], Answer]]:
        """A worker. Raises: Problem where this machine's teacher is another one."""
        teacher = same_teacher(self.teacher, self.sha256, self.home)
        with open_writer(teacher, self.settings, self.wanted, begun=lambda: self.dtype or fastest_dtype()) as writer:
            yield worker(writer, self.settings, self.seed)


def same_teacher(name: str, sha256: str, home: Path) -> Teacher:
    """This machine's teacher of that name. Raises: Problem where it is another one."""
    from potstill.models.teacher import find_teacher

    found = find_teacher(name, home, Silent())
    if found.sha256 != sha256:
        raise Problem(f"a worker has another teacher of the name {name}", "Share POTSTILL_HOME, or remove that one.")
    return found
