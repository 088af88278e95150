"""Runs side by side: the same held-out items, differences with intervals, what differs in the recipes.

In:  folders of evaluated runs.
Out: a `Comparison`, as tables, as JSON, as one self-contained page.
Does not know: how runs are made and measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from potstill.compare.entrants import grouped, read_runs
from potstill.compare.page import write_page
from potstill.compare.standing import Comparison, Reading, stand
from potstill.compare.table import comparison_json, comparison_tables

__all__ = ["Comparison", "Reading", "compare", "comparison_json", "comparison_tables", "write_page"]


def compare(folders: Sequence[Path]) -> Comparison:
    """Compare runs with the first of them; runs that differ in nothing but their seed count as one.

    Raises: Problem where there are fewer than two, or one has not been evaluated.
    """
    runs = read_runs(folders)
    first = runs[0].recipe
    return stand(grouped(runs), resamples=int(first["evaluate.bootstrap"]), seed=int(first["seed"]))
