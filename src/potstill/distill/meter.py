"""What a training step measured, micro-batch by micro-batch and rank by rank.

In:  sums, and means with the positions that they are over.
Out: one dictionary a step, of which a line of the log is made.
Does not know: losses, models, files.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Meter:
    """What one step's micro-batches add up to: a log line is made of it."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, **values: float) -> None:
        """Add to what is told as a sum."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def mean(self, name: str, total: float, positions: int) -> None:
        """Add to what is told as a mean: a sum over so many positions."""
        if positions:
            self.count(**{name: total})
            self.counts[name] = self.counts.get(name, 0) + positions

    def add(self, other: Meter) -> None:
        """Add what another rank measured in the same step."""
        self.count(**other.sums)
        for name, positions in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + positions

    def take(self) -> dict[str, float]:
        """Sums and means of this step; they start again at 0."""
        taken = {name: value / self.counts.get(name, 1) for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        return taken
