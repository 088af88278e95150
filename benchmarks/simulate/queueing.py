"""One stage as a discrete simulation: workers take pieces of work, and wait for what they share.

In:  a stage (pieces, phases, workers), the resources that its phases ask for.
Out: when it is done, how busy each resource was, what each worker did.
Does not know: tokens, models, hardware, money.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush


@dataclass(frozen=True)
class Resource:
    """Something shared, such as a disk: each server does `rate` units a second, first come, first served."""

    rate: float
    servers: int = 1


@dataclass(frozen=True)
class Phase:
    """A step that every piece goes through.

    Args:
        each: units for each unit of the piece; seconds, where the worker is on its own.
        resource: whose units; None: the worker's own time.
    """

    each: float
    resource: str | None = None


@dataclass(frozen=True)
class Stage:
    """Pieces of work, done in order by whichever worker is free; a worker goes through one piece's phases at a time.

    Args:
        pieces: their sizes. phases: of each, in order. workers: how many. start_seconds: before a worker's first piece.
    """

    pieces: Sequence[float]
    phases: Sequence[Phase]
    workers: int = 1
    start_seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a simulated stage came to.

    Args:
        seconds: until the last piece was done. done: what each worker did, in the pieces' unit.
        busy: share of that time that each resource (None: the workers themselves) was at work, 0 to 1.
    """

    seconds: float
    done: Sequence[float]
    busy: Mapping[str | None, float]

    @property
    def saturated(self) -> str | None:
        """The busiest resource; None: the workers."""
        return max(self.busy, key=lambda name: self.busy[name])


def cut(total: float, piece: float) -> list[float]:
    """`total` in pieces of that size; the last one may be smaller."""
    whole = int(total // piece)
    rest = total - whole * piece
    return [piece] * whole + ([rest] if rest > 0 else [])


def simulate(stage: Stage, resources: Mapping[str, Resource]) -> Outcome:
    """Let time pass until every piece is done."""
    waiting = iter(stage.pieces)
    free = {name: [0.0] * resource.servers for name, resource in resources.items()}
    worked: dict[str | None, float] = dict.fromkeys((None, *resources), 0.0)
    holding, done, end = [0.0] * stage.workers, [0.0] * stage.workers, 0.0
    # (time, worker, phases of its piece that are over); everybody begins as if a piece of nothing were done.
    events = [(stage.start_seconds, worker, len(stage.phases)) for worker in range(stage.workers)]
    heapify(events)
    while events:
        now, worker, over = heappop(events)
        if over == len(stage.phases):
            done[worker] += holding[worker]
            end = max(end, now)
            holding[worker], over = next(waiting, 0.0), 0
            if not holding[worker]:
                continue
        phase = stage.phases[over]
        seconds = phase.each * holding[worker]
        begin = now
        if phase.resource is not None:
            # Events come in the order of time, so whoever asks first is served first.
            seconds /= resources[phase.resource].rate
            begin = max(now, heappop(free[phase.resource]))
            heappush(free[phase.resource], begin + seconds)
        worked[phase.resource] += seconds
        heappush(events, (begin + seconds, worker, over + 1))
    servers = {None: stage.workers} | {name: resource.servers for name, resource in resources.items()}
    return Outcome(end, done, {name: spent / (end * servers[name]) if end else 0.0 for name, spent in worked.items()})
