"""Ctrl-C at a chosen moment, for tests of what is left behind.

In:  the label of a bar, a number of its steps.
Out: progress that stops everything there.
Does not know: any single test.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from listening import Listening
from potstill.progress import Task


class Stopping(Listening):
    """Progress that stops everything, as Ctrl-C does, at the n-th step of one bar."""

    def __init__(self, label: str, after: int) -> None:
        super().__init__()
        self.label, self.left = label, after

    @contextmanager
    def task(self, label: str, total: float | None, unit: str) -> Iterator[Task]:
        yield _StoppingTask(self, label == self.label)


class _StoppingTask:
    def __init__(self, progress: Stopping, counts: bool) -> None:
        self.progress, self.counts = progress, counts

    def advance(self, amount: float = 1) -> None:
        self.progress.left -= self.counts
        if self.counts and self.progress.left == 0:
            raise KeyboardInterrupt

    def resume(self, amount: float) -> None:
        self.advance(amount)

    def describe(self, text: str) -> None: ...
