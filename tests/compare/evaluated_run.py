"""A run folder as far as a comparison reads it: recipe, scorecard, items.

In:  a folder, per-item parts of each metric.
Out: the folder.
Does not know: comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from potstill.evaluate.items import statistic_of
from potstill.recipe import Recipe
from potstill.run import Run, write_json

UNITS = {"fidelity": "nats", "code": "share", "commonsense": "share", "stability": "score"}


def build(
    folder: Path, items: Mapping[str, Mapping[str, Sequence[float]]], *, decode: float = 100.0, **recipe: Any
) -> Path:
    """Write an evaluated run.

    Args:
        items: metric → item → [part, of]. recipe: tables of the recipe; its name is the folder's unless given.
    """
    run = Run(folder, Recipe.model_validate({"name": folder.name, **recipe}))
    run.keep_recipe()
    (folder / "evaluate").mkdir()
    card = {
        metric: {"student": measure(metric, list(parts.values())), "teacher": measure(metric, [[0.0, 1.0]])}
        for metric, parts in items.items()
    }
    speed = {"value": decode, "n": 3, "low": decode - 1, "high": decode + 1, "unit": "tokens/s"}
    card["speed.decode_tok_s"] = {"student": speed}
    card["naturalness.mean"] = {"student": {"value": None, "n": 0, "low": None, "high": None, "unit": "1–5"}}
    write_json(folder / "evaluate" / "scorecard.json", card)
    write_json(folder / "evaluate" / "items.json", {metric: {"student": parts} for metric, parts in items.items()})
    return folder


def measure(metric: str, rows: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The scorecard's cell; its interval is one that nobody computes, so that it is known again."""
    value = float(statistic_of(metric)(np.array(rows).sum(axis=0)))
    return {
        "value": value,
        "n": len(rows),
        "low": value - 0.123,
        "high": value + 0.123,
        "unit": UNITS[metric.split(".")[0]],
    }


def answers(kl: Sequence[float], first: int = 0) -> dict[str, dict[str, list[float]]]:
    """KL of as many answers, ten positions each."""
    return {"fidelity.kl": {f"p-{first + place}": [10 * one, 10.0] for place, one in enumerate(kl)}}
