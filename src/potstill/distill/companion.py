"""What may go along with a training: text the student wrote itself, a reward, the rounding of the shipped file.

In:  the place in the training, before every step.
Out: batches to learn from instead of the cached ones; losses added once a step; notes for the log and the report.
Does not know: the trainer.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from potstill.signals.formats import Rows

Batch = dict[str, Tensor]
"""As `batches.collate` makes it."""


class Companion:
    """Goes along with a training. The trainer asks in this order, every step; what is not overridden does nothing."""

    def begin_step(self, step: int, progress: float) -> None:
        """Before a step (counted from 0) that ends at some progress in [0, 1]: write, read, round, whatever is due."""

    def batch(self) -> tuple[Batch, Rows] | None:
        """What this micro-batch learns from instead of the cached one; None: the cached one."""
        return None

    def before_update(self) -> None:
        """All gradients of the step are there, the weights have not moved yet."""

    def losses(self) -> dict[str, Tensor]:
        """Weighted scalar losses by name, added once a step to the mean over positions; empty where none is due."""
        return {}

    def end(self) -> dict[str, Any]:
        """After the last step: put back what was changed. Returns: lines for report.json."""
        return {}
