"""Metric by metric: what every entrant reached, and how far that is from the first, on what all were asked.

In:  entrants.
Out: a `Comparison`: standings, what differs in the recipes, what a reader must be told.
Does not know: folders, tables, pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from potstill.compare.entrants import Entrant, Finished, differences
from potstill.compare.pairing import Draws, Estimate, centre, compare_runs, interval
from potstill.evaluate.items import Parts, statistic_of
from potstill.evaluate.scorecard import STUDENT
from potstill.report.metrics import Metric, metric_named

HELD_OUT = "fidelity.kl"
"""The metric that tells which held-out prompts a run was measured on."""

Verdict = Literal["better", "worse", "undecided", "plain", "first"]


@dataclass(frozen=True)
class Reading:
    """One entrant on one metric.

    Args:
        value: the mean over its seeds; None where it was not measured. difference: to the first entrant; None for the
        first itself, and where one of the two was not measured. paired: whether the difference is one on the same
        items. verdict: "better" or "worse" where the interval of the difference leaves 0 out; "plain" where there is
        no interval.
    """

    value: Estimate | None
    difference: Estimate | None
    paired: bool
    verdict: Verdict


@dataclass(frozen=True)
class Standing:
    """One metric; `n` items that all runs share, 0 where nothing is paired; readings in the entrants' order."""

    metric: Metric
    unit: str
    n: int
    readings: tuple[Reading, ...]


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown.

    Args:
        entrants: the first is what the others are compared with. standings: in the scorecard's order. recipes: key →
        its value in each, where they differ. warnings: why less is compared than a reader would think.
    """

    entrants: tuple[Entrant, ...]
    standings: tuple[Standing, ...]
    recipes: dict[str, list[Any]]
    warnings: tuple[str, ...]


def stand(entrants: Sequence[Entrant], resamples: int, seed: int) -> Comparison:
    """Compare all entrants with the first; `seed` of the resampling."""
    keys = dict.fromkeys(key for run in _runs(entrants) for key in run.measures if key.count(".") == 1)
    measured = [key for key in keys if any(_value(run, key) is not None for run in _runs(entrants))]
    standings = tuple(_standing(key, entrants, resamples, seed) for key in measured)
    return Comparison(tuple(entrants), standings, differences(entrants), tuple(_warnings(entrants)))


def _runs(entrants: Sequence[Entrant]) -> list[Finished]:
    return [run for one in entrants for run in one.runs]


def _value(run: Finished, metric: str) -> float | None:
    measure = run.measures.get(metric, {}).get(STUDENT)
    return None if measure is None else measure.value


def _parts(run: Finished, metric: str) -> Parts:
    return run.items.get(metric, {}).get(STUDENT, {})


def shared_items(entrants: Sequence[Entrant], metric: str) -> list[str]:
    """Items of a metric that every run has that has any, in the first one's order."""
    found = [parts for run in _runs(entrants) if (parts := _parts(run, metric))]
    return [item for item in found[0] if all(item in parts for parts in found)] if found else []


def _standing(key: str, entrants: Sequence[Entrant], resamples: int, seed: int) -> Standing:
    metric, shared = metric_named(key), shared_items(entrants, key)
    runs = [run for run in _runs(entrants) if key in run.measures and STUDENT in run.measures[key]]
    unit = next(run.measures[key][STUDENT].unit for run in runs)
    first = entrants[0]
    rows = [_rows(one, key, shared) for one in entrants]
    readings = []
    for one, parts in zip(entrants, rows, strict=True):
        if parts is None:
            readings.append(_unpaired(key, one, first))
        elif rows[0] is None or one is first:
            value = interval(
                centre(parts, statistic_of(key)),
                Draws(len(shared), resamples, seed).values(parts, statistic_of(key)),
                len(shared),
            )
            readings.append(Reading(_known(value, one, key, shared), None, False, "first" if one is first else "plain"))
        else:
            value, difference = compare_runs(rows[0], parts, statistic_of(key), resamples, seed)
            verdict = _verdict(metric, difference)
            readings.append(Reading(_known(value, one, key, shared), difference, True, verdict))
    return Standing(metric, unit, len(shared), tuple(readings))


def _rows(entrant: Entrant, metric: str, shared: Sequence[str]) -> Any:
    """[S, I, 2]; None where a run of the entrant kept no items."""
    parts = [_parts(run, metric) for run in entrant.runs]
    return np.array([[one[item] for item in shared] for one in parts]) if shared and all(parts) else None


def _known(estimate: Estimate, entrant: Entrant, metric: str, shared: Sequence[str]) -> Estimate:
    """The scorecard's own interval where it is over the same items: of shares it is better than resampling."""
    run = entrant.runs[0]
    if len(entrant.runs) > 1 or len(_parts(run, metric)) != len(shared):
        return estimate
    measure = run.measures[metric][STUDENT]
    return Estimate(estimate.value, measure.low, measure.high)


def _unpaired(key: str, entrant: Entrant, first: Entrant) -> Reading:
    """From the scorecards alone: speed, sizes, and runs that kept no items."""
    value, before = _mean(entrant, key), _mean(first, key)
    if entrant is first or value is None or before is None:
        return Reading(value, None, False, "first" if entrant is first else "plain")
    return Reading(value, Estimate(value.value - before.value, None, None), False, "plain")


def _mean(entrant: Entrant, key: str) -> Estimate | None:
    values = [value for run in entrant.runs if (value := _value(run, key)) is not None]
    if not values:
        return None
    if len(entrant.runs) > 1:
        return Estimate(float(np.mean(values)), None, None)
    measure = entrant.runs[0].measures[key][STUDENT]
    return Estimate(values[0], measure.low, measure.high)


def _verdict(metric: Metric, difference: Estimate) -> Verdict:
    if difference.low is None or difference.high is None or metric.better is None:
        return "plain"
    if difference.low <= 0 <= difference.high:
        return "undecided"
    return "better" if (difference.low > 0) == (metric.better == "higher") else "worse"


def _warnings(entrants: Sequence[Entrant]) -> list[str]:
    told = []
    for run in _runs(entrants):
        if not run.items:
            told.append(f"{run.folder.name} kept no items, so that nothing of it is paired: evaluate it again.")
        elif not _parts(run, HELD_OUT):
            told.append(f"{run.folder.name} has no fidelity on held-out answers.")
    counts = [(run.folder.name, len(parts)) for run in _runs(entrants) if (parts := _parts(run, HELD_OUT))]
    shared = len(shared_items(entrants, HELD_OUT))
    if any(count != shared for _, count in counts):
        listed = ", ".join(f"{name} has {count}" for name, count in counts)
        told.append(f"The runs do not hold out the same prompts: {shared} are shared, and compared on ({listed}).")
    return told
