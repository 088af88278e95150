"""Stage `evaluate`: the scorecard, measured on what ships.

In:  `export/`, `prune/`, `signals/` and `answers/` (held-out), other GGUFs, `ratings-….sqlite`.
Out: `evaluate/scorecard.json`, `items.json`, `samples.json`, `stability.json`, `failures.json`, `code.json`; parts that
     survive a kill lie beside them, replies in `POTSTILL_HOME/replies`.
Does not know: how the student was trained.
"""

from __future__ import annotations

from pathlib import Path

from potstill.run import Run

__all__ = ["evaluate"]


def evaluate(run: Run, folder: Path) -> None:
    """Measure everything; each part is kept as soon as it is whole."""
    from potstill.evaluate.measure import measure

    measure(run, folder)
