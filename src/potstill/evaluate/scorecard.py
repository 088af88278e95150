"""Every measured number with its count and its interval, teacher beside student.

In:  samples of a metric, model by model.
Out: `Scorecard`, a flat map metric → model → {value, n, low, high, unit}.
Does not know: how anything was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from potstill.run import read_json, write_json

Floats = NDArray[np.float64]
TEACHER, STUDENT = "teacher", "student"
"""Names of the two models that every scorecard has."""
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""97.5 % points of Student's t for 1, 2, … degrees of freedom."""
NORMAL = 1.959964
"""What they come to in the end."""
LIMITS = {
    "share": (0.0, 1.0),
    "score": (0.0, 1.0),
    "nats": (0.0, math.inf),
    "perplexity": (1.0, math.inf),
    "1–5": (1.0, 5.0),
    "alpha": (-1.0, 1.0),
}
"""Unit → what an interval does not reach beyond, unless the value itself does (a mean cosine can be negative)."""


@dataclass(frozen=True)
class Measure:
    """One number.

    Args:
        value: the estimate; None where nothing was measured. n: independent samples behind it. low, high: 95 %
        interval; None where one sample (or a fact, such as a file's size) leaves nothing to estimate. unit: "nats",
        "ms", "share" …  note: why there is no value; written only then.
    """

    value: float | None
    n: int
    low: float | None
    high: float | None
    unit: str
    note: str = ""


@dataclass
class Scorecard:
    """All measures of a run."""

    measures: dict[str, dict[str, Measure]] = field(default_factory=dict)

    def add(self, metric: str, model: str, measure: Measure) -> None:
        """Put a measure in its place."""
        self.measures.setdefault(metric, {})[model] = measure

    def write(self, path: Path) -> None:
        """Write the flat map as JSON."""
        write_json(
            path, {metric: {name: _plain(one) for name, one in row.items()} for metric, row in self.measures.items()}
        )


def fact(value: float, unit: str) -> Measure:
    """A number without an error, such as a size."""
    return Measure(value, 1, None, None, unit)


def read_measures(path: Path) -> dict[str, dict[str, Measure]]:
    """Metric → model → measure, as `Scorecard.write` left them."""
    return {metric: {name: Measure(**one) for name, one in row.items()} for metric, row in read_json(path).items()}


def _plain(measure: Measure) -> dict[str, Any]:
    return {name: value for name, value in asdict(measure).items() if name != "note" or value}


def unmeasured(unit: str, note: str = "not measured") -> Measure:
    """A place in the scorecard that nobody has filled: no value, n = 0, and why."""
    return Measure(None, 0, None, None, unit, note)


def proportion(successes: float, n: int) -> Measure:
    """A share of n independent yes-or-no outcomes, with Wilson's 95 % interval.

    Where outcomes come in n groups that are not independent inside (answers to one question), `successes` is the
    sum of the groups' shares: an interval as if each group had been asked once, too wide rather than too narrow.

    Resampling cannot do this: 0 of 50 resamples to 0 for ever, although 5 % would still give 0 of 50 now and then.
    Source: Wilson 1927.
    """
    if n == 0:
        raise ValueError("a share of nothing has no value")
    z = NORMAL
    share, scale = successes / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, middle - half)  # exactly, where rounding leaves 3e-17
    high = 1.0 if successes == n else min(1.0, middle + half)
    return Measure(share, n, low, high, "share")


def bootstrap(
    samples: Sequence[Sequence[float]], statistic: Callable[[Floats], Floats], unit: str, resamples: int, seed: int
) -> Measure:
    """A statistic of rows, with a percentile interval over resampled rows, stretched for few of them.

    Args:
        samples: [n, c] one row an independent sample (an answer, a conversation), not one a token.
        statistic: from column sums [..., c] of the rows drawn to the value [...].
        resamples: draws behind the interval.

    Source: Efron 1979; rows are whole answers because tokens of one answer are not independent. The stretch: Hesterberg
    2015, "What teachers should know about the bootstrap": of 8 rows the percentiles hold the truth 89 times in 100.
    """
    rows = np.asarray(samples, dtype=np.float64)
    value = float(statistic(rows.sum(axis=0)))
    if len(rows) < 2:
        return Measure(value, len(rows), None, None, unit)
    draws = np.random.default_rng(seed).integers(len(rows), size=(resamples, len(rows)))
    drawn = statistic(rows[draws].sum(axis=1))
    low, high = value + (np.percentile(drawn, [2.5, 97.5]) - value) * stretch(len(rows))
    if not math.isfinite(low + high):
        return Measure(value, len(rows), None, None, unit)
    least, most = LIMITS.get(unit, (-math.inf, math.inf))
    return Measure(value, len(rows), max(min(least, value), float(low)), min(max(most, value), float(high)), unit)


def stretch(n: int) -> float:
    """By how much percentiles of `n` resampled rows are too narrow: Student's t for 1.96, n - 1 for n."""
    return student_t(n - 1) / NORMAL * math.sqrt(n / (n - 1))


def student_t(freedom: int) -> float:
    """97.5 % point of Student's t. Source: Abramowitz and Stegun 1964, 26.7.5, for more degrees than the table has."""
    if freedom <= len(STUDENT_T):
        return STUDENT_T[freedom - 1]
    z = NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def repeated(values: Sequence[float], unit: str) -> Measure:
    """The mean of a few timings, with Student's 95 % interval; a measure of one has none.

    Resampling cannot do this: three values resample to their range, which holds the mean three times in four.
    Source: Student 1908, "The probable error of a mean".
    """
    value, n = float(np.mean(values)), len(values)
    if n < 2:
        return Measure(value, n, None, None, unit)
    half = student_t(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Measure(value, n, max(0.0, value - half), value + half, unit)


def ratio(sums: Floats) -> Floats:
    """First column over second: a mean over positions when the second counts them."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def perplexity(sums: Floats) -> Floats:
    """Of a first column that sums the surprise of as many positions as the second counts."""
    return np.asarray(np.exp(ratio(sums)))


def mean_of(values: Sequence[float]) -> list[list[float]]:
    """Rows whose `ratio` is the mean of `values`."""
    return [[value, 1.0] for value in values]
