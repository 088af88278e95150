"""What a fit has found: as a table, as JSON, as lines for a recipe.

In:  timed candidates, the limits they miss, what those that miss none are worth.
Out: `Finding`: the best of them first; rows; JSON; TOML.
Does not know: terminals, how anything was measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from potstill.evaluate.scorecard import Measure
from potstill.fit.limits import Limits, explain, told
from potstill.fit.measuring import Spread, Timed
from potstill.fit.quality import Quality
from potstill.report.words import Table, with_ends

PROPOSED = 3


@dataclass(frozen=True)
class Fitted:
    """One candidate: what it reached, which limits it misses and by how much, what it is worth (None: not measured)."""

    timed: Timed
    missed: dict[str, float]
    quality: Quality | None

    def toml(self) -> str:
        """The lines that make a recipe cut this shape."""
        spec = self.timed.candidate.spec
        return f"[prune]\nlayers = {spec.layers}\nffn = {spec.ffn}\nhidden = {spec.hidden}"

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        timed, quality = self.timed, self.quality
        return {
            "shape": asdict(timed.candidate.spec),
            "parameters": timed.candidate.parameters,
            "threads": asdict(timed.threads),
            "rounds": timed.rounds,
            "size_mb": timed.size_mb,
            "memory_mb": timed.memory_mb,
            "decode_tok_s": asdict(timed.decode_tok_s),
            "first_token_ms": asdict(timed.first_token_ms),
            "missed": self.missed,
            "quality": None if quality is None else asdict(quality),
            "toml": self.toml(),
        }

    def row(self) -> list[str]:
        """For a table with the columns of `Finding.table`."""
        timed, quality = self.timed, self.quality
        return [
            timed.candidate.name,
            f"{timed.candidate.parameters / 1e6:.0f}M",
            f"{timed.size_mb:.1f}",
            _spread(timed.decode_tok_s),
            _spread(timed.first_token_ms),
            f"{timed.memory_mb:.0f}",
            told(self.missed),
            _measure(quality.kl, 1.0) if quality else "–",
            _measure(quality.top1, 100.0) if quality else "–",
            str(quality.kl.n) if quality else "–",
        ]


@dataclass(frozen=True)
class Finding:
    """All candidates.

    Args:
        kind: number format of the files. why_not_healed: why quality was not measured; empty where it was.
    """

    limits: Limits
    kind: str
    fitted: tuple[Fitted, ...]
    why_not_healed: str

    @cached_property
    def proposals(self) -> list[Fitted]:
        """The best of those that meet every limit: by held-out KL, or by parameters where nothing was healed."""
        fitting = [one for one in self.fitted if not one.missed]
        return sorted(fitting, key=_worth)[:PROPOSED]

    def explain(self) -> list[str]:
        """Which limit excludes how many candidates, and by how much at least."""
        return explain(self.limits, [one.timed.reached() for one in self.fitted])

    def table(self) -> Table:
        """Title, columns, rows: the proposals first, then all others, largest first."""
        others = [one for one in self.fitted if one not in self.proposals]
        rounds = max(one.timed.rounds for one in self.fitted)
        title = (
            f"Shapes as {self.kind} on this machine: median [range] of {rounds} rounds; quality as healed, untrained"
        )
        columns = ["layers × ffn", "parameters", "MB", "tokens/s", "first token, ms", "memory, MB", "limits"]
        return (
            title,
            [*columns, "KL, nats [95 %]", "top-1, % [95 %]", "answers"],
            [one.row() for one in [*self.proposals, *others]],
        )

    def snippets(self) -> list[str]:
        """For each proposal a line about it and what to write into a recipe."""
        return [f"# {_headline(one)}\n{one.toml()}" for one in self.proposals]

    def to_json(self) -> dict[str, Any]:
        """Everything, the best first under `proposals`."""
        return {
            "limits": self.limits.asked(),
            "type": self.kind,
            "why_not_healed": self.why_not_healed,
            "excluded": self.explain(),
            "proposals": [one.to_json() for one in self.proposals],
            "candidates": [one.to_json() for one in self.fitted],
        }


def _worth(one: Fitted) -> tuple[float, int]:
    known = one.quality.kl.value if one.quality else None
    return float("inf") if known is None else known, -one.timed.candidate.parameters


def _headline(one: Fitted) -> str:
    timed = one.timed
    text = f"{timed.size_mb:.0f} MB, {timed.decode_tok_s.value:.0f} tokens/s, {timed.first_token_ms.value:.0f} ms"
    if one.quality is None or one.quality.kl.value is None or one.quality.top1.value is None:
        return text
    quality = one.quality
    return f"{text}; healed: KL {quality.kl.value:.3g} nats, top-1 {quality.top1.value:.1%} (n = {quality.kl.n})"


def _spread(spread: Spread) -> str:
    return with_ends(spread.value, spread.low, spread.high)


def _measure(measure: Measure, scale: float) -> str:
    if measure.value is None:
        return measure.note or "not measured"
    return with_ends(measure.value, measure.low, measure.high, scale=scale)
