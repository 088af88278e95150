"""How far a training is, and what follows from it: learning rate and temperature.

In:  steps done, seconds used.
Out: progress in [0, 1], a factor for the learning rate, a temperature.
Does not know: optimisers, models, what a step costs beyond its mean time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from potstill.recipe import TemperatureSection


@dataclass
class Clock:
    """Progress by wall-clock time, carried over a kill.

    Args:
        budget_seconds: training time in all. used_before: seconds used by earlier processes of the same training.
        now: the time source.
    """

    budget_seconds: float
    used_before: float = 0.0
    now: Callable[[], float] = time.monotonic
    started: float | None = None
    steps: int = 0
    reached: float = 0.0

    def start(self) -> None:
        """The time begins to run."""
        self.started, self.steps = self.now(), 0

    def used(self) -> float:
        """Seconds used, earlier processes included."""
        return self.used_before + (0.0 if self.started is None else self.now() - self.started)

    def step_seconds(self) -> float:
        """Mean time of a step of this process; 0 before the first."""
        return (self.used() - self.used_before) / self.steps if self.steps else 0.0

    def behind(self) -> float:
        """How much of the training is done, in [0, 1]."""
        return min(1.0, self.used() / self.budget_seconds)

    def progress(self) -> float:
        """Where the coming step will end, in [0, 1]: so the last one lands at 1. It never steps back."""
        self.reached = max(self.reached, min(1.0, (self.used() + self.step_seconds()) / self.budget_seconds))
        return self.reached

    def middle(self) -> float:
        """Where the middle of the coming step will lie: what holds for the whole of it, such as its learning rate."""
        return max(0.0, self.progress() - self.step_seconds() / 2 / self.budget_seconds)

    def is_over(self) -> bool:
        """True where another step would end nearer beyond the budget than before it."""
        return self.used() + self.step_seconds() / 2 >= self.budget_seconds


@dataclass
class StepCount:
    """Progress by steps: the same on any machine.

    Args:
        total: steps in all. done: steps done.
    """

    total: int
    done: int = field(default=0)

    def behind(self) -> float:
        """How much of the training is done, in [0, 1]."""
        return min(1.0, self.done / self.total)

    def progress(self) -> float:
        """Where the coming step will end, in [0, 1]."""
        return min(1.0, (self.done + 1) / self.total)

    def middle(self) -> float:
        """Where the middle of the coming step will lie."""
        return min(1.0, (self.done + 0.5) / self.total)


def learning_rate_factor(progress: float, still: float, warmup: float, decay: str) -> float:
    """0 for a share `still` of the run, a linear rise over the share `warmup`, then a fall to 0 at progress 1.

    While the rate is 0 Adam's moments fill: its first steps would otherwise be of full size in every weight, which
    throws a healed start away. The fall is "linear" (arXiv:2502.15938) or half a "cosine" (arXiv:1608.03983).
    """
    if progress <= still:
        return 0.0
    if progress < still + warmup:
        return (progress - still) / warmup
    left = (1.0 - progress) / max(1.0 - still - warmup, 1e-9)
    return left if decay == "linear" else (1.0 - math.cos(math.pi * left)) / 2


def temperature_at(section: TemperatureSection, progress: float) -> float:
    """The temperature at some progress: always one of `section.values()`."""
    values = section.values()
    way = (1.0 - math.cos(math.pi * progress)) / 2 if section.schedule == "cosine" else progress
    return values[min(len(values) - 1, int(way * len(values)))]
