"""What a device allows, and by how much a student misses it.

In:  limits a person typed, what a candidate reached.
Out: the limits it misses; for all candidates together, which limit excludes how many.
Does not know: shapes, how anything was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from potstill.problem import Problem


@dataclass(frozen=True)
class Bound:
    """One kind of limit: the option that sets it, its unit, and which way is better."""

    option: str
    unit: str
    at_least: bool


BOUNDS = {
    "decode_tok_s": Bound("--decode", "tokens/s", at_least=True),
    "first_token_ms": Bound("--first-token", "ms", at_least=False),
    "size_mb": Bound("--size", "MB", at_least=False),
    "memory_mb": Bound("--memory", "MB", at_least=False),
}


@dataclass(frozen=True)
class Limits:
    """None: this does not matter. Decode is a least, all others a most; a megabyte is 10⁶ bytes."""

    decode_tok_s: float | None = None
    first_token_ms: float | None = None
    size_mb: float | None = None
    memory_mb: float | None = None

    def __post_init__(self) -> None:
        if not self.asked():
            options = ", ".join(bound.option for bound in BOUNDS.values())
            raise Problem("nothing is asked of the device", f"Give at least one of {options}.")
        for name, value in self.asked().items():
            if not value > 0:
                raise Problem(f"{BOUNDS[name].option} = {value:g} asks for nothing", "Give a number above 0.")

    def asked(self) -> dict[str, float]:
        """Name → limit, of those that matter."""
        return {name: value for name in BOUNDS if (value := getattr(self, name)) is not None}

    def misses(self, reached: Mapping[str, float]) -> dict[str, float]:
        """Name → by how much, as a share of the limit, of every limit that is missed."""
        missed = {}
        for name, limit in self.asked().items():
            excess = reached[name] / limit - 1
            if (-excess if BOUNDS[name].at_least else excess) > 0:
                missed[name] = abs(excess)
        return missed


def explain(limits: Limits, reached: Sequence[Mapping[str, float]]) -> list[str]:
    """For every limit that excludes anything: how many, and how far the closest candidate stays from it."""
    lines = []
    for name, limit in limits.asked().items():
        bound = BOUNDS[name]
        excluded = sum(name in limits.misses(one) for one in reached)
        if not excluded:
            continue
        values = [one[name] for one in reached]
        best = max(values) if bound.at_least else min(values)
        by = limits.misses({**dict.fromkeys(BOUNDS, limit), name: best}).get(name)
        closest = f"the closest reaches {best:.4g} {bound.unit}" + (f", {by:.0%} off" if by else "")
        lines.append(f"{bound.option} {limit:g} {bound.unit} excludes {excluded} of {len(reached)}; {closest}")
    return lines


def told(missed: Mapping[str, float]) -> str:
    """`met`, or `--decode by 32 %, --size by 4 %`."""
    return ", ".join(f"{BOUNDS[name].option} by {by:.0%}" for name, by in missed.items()) or "met"
