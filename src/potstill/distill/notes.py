"""What a companion did, step by step, kept where a killed training finds it again.

In:  a path, numbers of a step.
Out: a JSON file; sums over all steps.
Does not know: what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from potstill.run import read_json, write_json


class StepNotes:
    """Numbers by step. A step that a resumed training does again takes the place of what it was before."""

    def __init__(self, path: Path) -> None:
        """Go on with the file at `path`; it need not exist."""
        self.path = path
        self._steps: dict[str, dict[str, float]] = read_json(path) if path.exists() else {}

    def __len__(self) -> int:
        """Steps with a note."""
        return len(self._steps)

    def note(self, step: int, numbers: Mapping[str, float]) -> None:
        """Keep the numbers of a step, on disk at once."""
        self._steps[str(step)] = dict(numbers)
        write_json(self.path, self._steps)

    def first(self) -> tuple[int, dict[str, float]] | None:
        """The earliest step with a note; None where there is none."""
        return min(
            ((int(step), numbers) for step, numbers in self._steps.items()), default=None, key=lambda one: one[0]
        )

    def sum(self, name: str) -> float:
        """Of one number over all steps."""
        return sum(numbers[name] for numbers in self._steps.values())
