"""From a number of prompts to hours and money: every stage of a run on a fleet, through the simulation.

In:  prompts, a teacher, a fleet; the assumptions of `hardware`, the arithmetic of `costs`.
Out: for each stage seconds, dollars and what saturates first.
Does not know: Markdown.

Stages follow one another, as in a run. A worker of `answers` and `signals` is a group of devices that hold one copy of
the teacher; the ranks of a training go in step, so they are one worker that shares storage with itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from costs import (
    ANSWER,
    STEP_TOKENS,
    STUDENT,
    TEXT,
    Shape,
    devices_for,
    hidden_bytes,
    reading_rate,
    training_rate,
    writing_rate,
)
from hardware import FLEETS, MACHINES, Machine
from queueing import Phase, Resource, Stage, cut, simulate

MOST_PIECES = 2000
"""A longer stage is simulated in larger pieces: what waits for what stays the same."""
MOST_RANKS = 64
"""Beyond that a step would hold more than a million tokens."""
SHARD_ANSWERS = 40
STORAGE, NETWORK = "storage", "network"


@dataclass(frozen=True)
class Fleet:
    """Devices of one kind."""

    machine: Machine
    devices: int

    @property
    def resources(self) -> Mapping[str, Resource]:
        """Storage grows with the nodes; a rank has its own link."""
        return {
            STORAGE: Resource(self.machine.storage * self.devices),
            NETWORK: Resource(self.machine.network),
        }


def fleet_for(prompts: int) -> Fleet:
    """The fleet that somebody with so many prompts might rent."""
    name, devices = FLEETS[prompts]
    return Fleet(MACHINES[name], devices)


@dataclass(frozen=True)
class Cost:
    """Of one stage. `saturated`: workers, storage or network."""

    seconds: float
    dollars: float
    saturated: str
    tokens: float


def run_costs(prompts: int, teacher: Shape, fleet: Fleet) -> dict[str, Cost] | None:
    """Each stage that grows with the prompts; None where the fleet does not hold the teacher."""
    group = devices_for(teacher, fleet.machine)
    if group > fleet.devices:
        return None
    workers = fleet.devices // group
    return {
        "answers": _cost(answers_stage(prompts, teacher, fleet, workers), fleet, fleet.devices),
        "signals": _cost(signals_stage(prompts, teacher, fleet, workers), fleet, fleet.devices),
        "distill": training_cost(prompts, teacher, fleet),
    }


def training_cost(prompts: int, teacher: Shape, fleet: Fleet) -> Cost:
    """Of `distill` alone, which does not need the teacher."""
    return _cost(distill_stage(prompts, teacher, fleet), fleet, min(fleet.devices, MOST_RANKS))


def _cost(stage: Stage, fleet: Fleet, devices: int) -> Cost:
    found = simulate(stage, fleet.resources)
    dollars = found.seconds / 3600 * devices * fleet.machine.dollars
    return Cost(found.seconds, dollars, found.saturated or "workers", sum(found.done))


def pieces(tokens: float, smallest: float) -> list[float]:
    """Equal pieces, at most MOST_PIECES of them, none below `smallest` but the last."""
    return cut(tokens, max(smallest, tokens / MOST_PIECES))


def answers_stage(prompts: int, teacher: Shape, fleet: Fleet, workers: int) -> Stage:
    """Tokens written; four bytes of text each."""
    rate = writing_rate(teacher, fleet.machine) * fleet.devices / workers
    phases = [Phase(1 / rate), Phase(4, STORAGE)]
    return Stage(pieces(prompts * ANSWER, SHARD_ANSWERS * ANSWER), phases, workers)


def signals_stage(prompts: int, teacher: Shape, fleet: Fleet, workers: int) -> Stage:
    """Tokens read; the hidden state of answer tokens kept."""
    rate = reading_rate(teacher, fleet.machine) * fleet.devices / workers
    kept = hidden_bytes(teacher.width) * ANSWER / TEXT
    phases = [Phase(4, STORAGE), Phase(1 / rate), Phase(kept, STORAGE)]
    return Stage(pieces(prompts * TEXT, SHARD_ANSWERS * TEXT), phases, workers)


def distill_stage(prompts: int, teacher: Shape, fleet: Fleet) -> Stage:
    """One pass in step: signals read, the student's share computed, gradients of four bytes summed over all ranks."""
    ranks = min(fleet.devices, MOST_RANKS)
    rate = training_rate(teacher, fleet.machine) * ranks
    kept = hidden_bytes(teacher.width) * ANSWER / TEXT
    # A ring: every rank sends and receives all gradients twice, but for its own part, once a step.
    summed = 2 * (ranks - 1) / ranks * 4 * STUDENT.parameters / (STEP_TOKENS * ranks)
    phases = [Phase(kept, STORAGE), Phase(1 / rate), Phase(summed, NETWORK)]
    return Stage(pieces(prompts * TEXT, STEP_TOKENS * ranks), phases)
