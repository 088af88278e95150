"""Several engines of one model: many conversations at once, each reply the same as if it had been asked alone.

In:  a GGUF, conversations (or plain texts to be written on) with their sampling settings.
Out: replies, as they are finished; token ids of prompts.
Does not know: recipes, runs, what the replies are for.

llama.cpp's slots put several conversations into one matrix product, and its rounding depends on who else is in it:
the same seed writes other words. Here every conversation has an engine with one slot and one thread to itself, so a
reply depends on nothing but its request, on any number of cores.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from potstill.machine import available_memory_mb
from potstill.models.engine import Engine, Messages, Reply, Sampling, Threads
from potstill.models.gguf_adapter import parts_of

ALONE = Threads(decode=1, prefill=1, waiting="PASSIVE")
MEMORY_SHARE, MEMORY_PER_MB = 0.5, 1.4
"""At most half of what is free; an engine takes its file and, for caches and buffers, some more."""


def members_that_fit(gguf: Path, cores: int) -> int:
    """One engine a core, fewer where memory is short, never none."""
    room = MEMORY_SHARE * available_memory_mb() / (MEMORY_PER_MB * parts_of(gguf).bytes / 1e6)
    return max(1, min(cores, int(room)))


class Team:
    """Loaded engines that write. Use it as a context manager, or call `close`."""

    def __init__(self, gguf: Path, *, context: int, members: int) -> None:
        """Load the model `members` times. Errors as for `Engine`."""
        self._engines = ExitStack()
        self._idle: queue.SimpleQueue[Engine] = queue.SimpleQueue()
        with ExitStack() as loading:
            for _ in range(members):
                self._idle.put(loading.enter_context(Engine(gguf, context=context, slots=1, threads=ALONE)))
            self._engines = loading.pop_all()
        self._workers = ThreadPoolExecutor(members, thread_name_prefix="potstill-team")

    def close(self) -> None:
        """Stop what is being written and give the memory back. Safe to call twice."""
        self._workers.shutdown(wait=False)
        self._engines.close()
        self._workers.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, requests: Sequence[tuple[str | Messages, Sampling]]) -> Iterator[tuple[int, Reply]]:
        """Pairs of position and reply, in the order of finishing. Breaking off closes the team.

        Raises: Problem where a prompt doesn't fit into the context.
        """
        futures = {self._workers.submit(self._reply, *request): place for place, request in enumerate(requests)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            if not all(future.done() for future in futures):
                self.close()

    def prompt_ids(self, conversations: Sequence[Messages]) -> list[list[int]]:
        """Token ids of every conversation with everything its template adds, up to where the answer begins."""
        with self._member() as engine:
            return [engine.prompt_ids(messages) for messages in conversations]

    def _reply(self, prompt: str | Messages, sampling: Sampling) -> Reply:
        with self._member() as engine:
            return engine.reply(prompt, sampling)

    @contextmanager
    def _member(self) -> Iterator[Engine]:
        engine = self._idle.get()
        try:
            yield engine
        finally:
            self._idle.put(engine)
