"""Who writes the teacher's answers: llama.cpp's slots for a few, PyTorch side by side for many.

In:  a teacher, how many answers are wanted, the recipe's section `answers`.
Out: a `Writer`: lengths of prompts, what is written together, replies.
Does not know: files, which answers there are already beyond their prompts' ids.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from potstill.machine import fastest_dtype, usable_cores
from potstill.models.conversation import messages
from potstill.prompts import Prompt
from potstill.recipe import AnswersSection

if TYPE_CHECKING:
    from potstill.models.bulk import BulkWriter
    from potstill.models.engine import Engine, Reply, Sampling
    from potstill.models.teacher import Teacher

A_FEW = 8
"""Below so many answers llama.cpp has finished before PyTorch has loaded its weights."""
WINDOW = 512
"""Prompts handed to llama.cpp at a time: it prepares all it is given before it writes the first word."""
SENT_WINDOW = 32
"""Prompts sent to a worker elsewhere at a time: what is lost where it dies."""


def unknown(prompts: Sequence[Prompt], known: Collection[str], most: int) -> Iterator[list[Prompt]]:
    """Prompts that are not known, `most` at a time."""
    left = [prompt for prompt in prompts if prompt.id not in known]
    for begin in range(0, len(left), most):
        yield left[begin : begin + most]


class Writer(Protocol):
    """What the stage needs."""

    server: str | None
    """Who writes, where it is not the verified teacher."""
    dtype: str | None
    """What PyTorch computes in, where it writes."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Ids of prompts that it would not answer → why."""

    def count_tokens(self, prompt: str | Sequence[dict[str, str]]) -> int:
        """Tokens of a plain text, or of a conversation with its template."""

    def batches(self, prompts: Sequence[Prompt], known: Collection[str], max_tokens: int) -> Iterator[list[Prompt]]:
        """What has to be written, part by part.

        Args:
            prompts: all that this writer answers in this run. known: ids of those that are answered already.
        """

    def write(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> Iterator[tuple[int, Reply]]:
        """Position and reply, in the order of finishing."""


class Slots:
    """llama.cpp: every answer for itself, as far as its slots allow."""

    server: str | None = None
    dtype: str | None = None
    refused: Mapping[str, str] = MappingProxyType({})

    def __init__(self, engine: Engine, window: int) -> None:
        self._engine, self._window = engine, window
        self.count_tokens = engine.count_tokens

    def batches(self, prompts: Sequence[Prompt], known: Collection[str], max_tokens: int) -> Iterator[list[Prompt]]:
        """All that are not known."""
        return unknown(prompts, known, self._window)

    def write(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> Iterator[tuple[int, Reply]]:
        """Position and reply, in the order of finishing."""
        return self._engine.batch([messages(prompt.text) for prompt in prompts], sampling, seeds)


class Together:
    """PyTorch: rounding depends on the batch, so a batch that was cut short is written again as a whole.

    Killed or not, the same answers come out.
    """

    server: str | None = None
    refused: Mapping[str, str] = MappingProxyType({})

    def __init__(self, writer: BulkWriter, dtype: str) -> None:
        self._writer = writer
        self.dtype: str | None = dtype
        self.count_tokens = writer.count_tokens

    def batches(self, prompts: Sequence[Prompt], known: Collection[str], max_tokens: int) -> Iterator[list[Prompt]]:
        """The batches of all prompts, without those that are known as a whole."""
        for places in self._writer.plan([messages(prompt.text) for prompt in prompts], max_tokens):
            batch = [prompts[place] for place in places]
            if not all(prompt.id in known for prompt in batch):
                yield batch

    def write(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> Iterator[tuple[int, Reply]]:
        """Position and reply, in the order of finishing."""
        return self._writer.batch([messages(prompt.text) for prompt in prompts], sampling, seeds)


@contextmanager
def open_writer(
    teacher: Teacher,
    settings: AnswersSection,
    wanted: int,
    window: int | None = None,
    begun: Callable[[], str] = fastest_dtype,
) -> Iterator[Writer]:
    """Load what the recipe asks for.

    Args:
        wanted: answers to write, those of an earlier, killed process included.
        window: prompts that llama.cpp is handed at a time.
        begun: says what PyTorch computes in, if it is asked at all.
    """
    if settings.writer == "together" or (settings.writer == "fastest" and wanted >= A_FEW):
        import torch

        from potstill.models.bulk import BulkWriter
        from potstill.models.teacher import load_model, load_tokenizer

        dtype = begun()
        model = load_model(teacher.checkpoint, getattr(torch, dtype))
        yield Together(BulkWriter(model, load_tokenizer(teacher.checkpoint)), dtype)
        return
    from potstill.models.engine import Engine, default_threads

    threads = default_threads(usable_cores())
    with Engine(teacher.gguf, context=settings.context, slots=settings.slots, threads=threads) as engine:
        yield Slots(engine, window or WINDOW)
