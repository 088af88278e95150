"""Progress that is heard: for tests of what a person is told.

In:  what is said.
Out: the lines, in order.
Does not know: any single test.
"""

from __future__ import annotations

from potstill.progress import Silent


class Listening(Silent):
    """Keeps the lines that are said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)
