"""How long work tells a person where it stands.

In:  labels, totals and amounts done, from any layer.
Out: a protocol that a terminal (or a test) implements, and the silent implementation.
Does not know: terminals, stages, files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One bar: something countable that is under way."""

    def advance(self, amount: float = 1) -> None:
        """Add `amount` units of finished work."""

    def resume(self, amount: float) -> None:
        """Add `amount` units that an earlier process finished: they tell nothing of how fast this one is."""

    def describe(self, text: str) -> None:
        """Show `text` behind the label (a loss, a file name); replaces what stood there."""


class Progress(Protocol):
    """Where long work reports to."""

    def task(self, label: str, total: float | None, unit: str) -> AbstractContextManager[Task]:
        """Open a bar of `total` units (None: unknown); it closes with the context."""

    def say(self, line: str) -> None:
        """One line for a person to read: a count, a choice made, a warning."""


class _SilentTask:
    def advance(self, amount: float = 1) -> None:
        """Nothing to show."""

    def resume(self, amount: float) -> None:
        """Nothing to show."""

    def describe(self, text: str) -> None:
        """Nothing to show."""


class Silent:
    """Progress that shows nothing: for tests and for use as a library."""

    @contextmanager
    def task(self, label: str, total: float | None, unit: str) -> Iterator[Task]:
        """A bar nobody sees."""
        yield _SilentTask()

    def say(self, line: str) -> None:
        """A line nobody reads."""
