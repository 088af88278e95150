"""Differences between runs on the same items, with intervals over items and over seeds.

In:  for each run the parts of a metric on the items that all runs share.
Out: `Estimate`s: a value, and its difference to another's, with 95 % intervals.
Does not know: metrics' names, files, recipes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from potstill.evaluate.scorecard import stretch

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; without one where nothing varies."""

    value: float
    low: float | None
    high: float | None


class Draws:
    """The same resampled items for everybody, which is what makes a difference a paired one."""

    def __init__(self, items: int, resamples: int, seed: int) -> None:
        """Draw `items` of as many, `resamples` times."""
        self._random = np.random.default_rng(seed)
        self._items = self._random.integers(items, size=(resamples, items))

    def values(self, runs: Floats, statistic: Statistic) -> Floats:
        """[resamples] the mean over resampled runs of the statistic of resampled items.

        Runs that differ in their seed are drawn as well, since another seed would have given another student. Of two
        seeds an interval is too narrow rather than too wide: a resample holds the same one twice half of the time.

        Args:
            runs: [S, I, 2] parts of the runs of one recipe. statistic: of sums [..., 2].
        """
        each = np.stack([statistic(run[self._items].sum(axis=1)) for run in runs])
        if len(runs) == 1:
            return np.asarray(each[0])
        count = each.shape[1]
        drawn = self._random.integers(len(runs), size=(len(runs), count))
        return np.asarray(each[drawn, np.arange(count)].mean(axis=0))


def centre(runs: Floats, statistic: Statistic) -> float:
    """The mean over runs of the statistic over all items; `runs` [S, I, 2]."""
    return float(np.mean([statistic(run.sum(axis=0)) for run in runs]))


def interval(value: float, drawn: Floats, items: int) -> Estimate:
    """The value with a percentile interval of what was drawn, stretched where it was drawn of few items.

    Sources: as `bootstrap`'s. Of one item, or where every draw is the same, resampling knows nothing of the others.
    """
    if items < 2 or np.ptp(drawn) == 0:
        return Estimate(value, None, None)
    low, high = value + (np.percentile(drawn, [2.5, 97.5]) - value) * stretch(items)
    return Estimate(value, float(low), float(high))


def compare_runs(
    first: Floats, other: Floats, statistic: Statistic, resamples: int, seed: int
) -> tuple[Estimate, Estimate]:
    """Value of `other`, and its difference to `first`, both over the same items.

    Args:
        first, other: [S, I, 2] and [R, I, 2]: the runs of each recipe, the same I items in the same order.
    """
    draws = Draws(first.shape[1], resamples, seed)
    before, after = draws.values(first, statistic), draws.values(other, statistic)
    value = centre(other, statistic)
    items = first.shape[1]
    return interval(value, after, items), interval(value - centre(first, statistic), after - before, items)
