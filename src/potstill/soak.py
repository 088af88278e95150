"""A soak: conversations at random for hours, memory after each, and whether it grows.

In:  a GGUF, hours, questions.
Out: a `SoakReport`: conversations, failures, memory and its slope with an interval; JSON.
Does not know: runs, packs, the terminal.

The engine, the bounded context and the dropping of old turns are those of `potstill chat`.

What leaks is never given back, so leaks are looked for in what is in use: bytes of the C library's heap (llama.cpp's),
blocks of Python's own. Resident memory is told beside it; it also holds what was freed, which creeps in single pages
of an allocator that never gives them back.
"""

from __future__ import annotations

import gc
import math
import random
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from potstill.chat import Conversation
from potstill.machine import heap_in_use_mb, peak_memory_mb, resident_memory_mb, usable_cores
from potstill.models.engine import Engine, Sampling, default_threads
from potstill.problem import Problem
from potstill.progress import Progress, Task
from potstill.prompts import golden

PUBLISHED_HOURS = 72.0
CONVERSATIONS_AN_HOUR = 60.0
"""Assumed: who published the 72 hours did not say how much was talked. One conversation a minute is a busy user."""
LEAST = 8
"""Samples in the second half below which no slope is fitted."""
RESAMPLES = 2000
TOLD = 10
"""Failures that are written out; all are counted."""
BLOCK_MB = 512 / 1e6
"""Largest of Python's own blocks."""
WORTH_TELLING_MB = 0.1 / (PUBLISHED_HOURS * CONVERSATIONS_AN_HOUR)
"""Growth a conversation that comes to 0.1 MB over all of the published use; less is no growth, however sure it is: a
single block of 512 bytes that something remembered in half an hour has a tight interval too."""
BROKEN_OFF = 0.15
"""Share of answers that their reader stops, which is when resources are forgotten."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Slope:
    """Growth a conversation, MB; low and high: 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def grows(self) -> bool:
        """Whether all of the interval is above what is worth telling."""
        return self.low > WORTH_TELLING_MB


@dataclass
class SoakReport:
    """What a soak has shown; memory, in use and blocks are the whole process's after each conversation."""

    model: str
    context: int
    seed: int
    seconds: float = 0.0
    conversations: int = 0
    turns: int = 0
    broken_off: int = 0
    failures: int = 0
    failed: list[str] = field(default_factory=list)
    peak_mb: float = 0.0
    slope: Slope | None = None
    """Of resident memory."""
    leak: Slope | None = None
    """Of the heap in use; None where the C library doesn't tell it."""
    leaked_blocks: Slope | None = None
    """Of Python's own blocks, each taken for as large as they come."""
    memory_mb: array[float] = field(default_factory=lambda: array("d"))
    """As small as can be: a record that grows is growth, too."""
    in_use_mb: array[float] = field(default_factory=lambda: array("d"))
    blocks: array[int] = field(default_factory=lambda: array("q"))

    @property
    def published_hours(self) -> float:
        """Hours of the published use with as many conversations, at one a minute."""
        return self.conversations / CONVERSATIONS_AN_HOUR

    @property
    def growth_published_mb(self) -> float | None:
        """What the upper end of resident memory's slope would come to over all of the published use, MB."""
        return self.slope.high * PUBLISHED_HOURS * CONVERSATIONS_AN_HOUR if self.slope else None

    @property
    def steady(self) -> bool:
        """No failure, and nothing that demonstrably leaks; resident memory decides where the heap is not told."""
        decisive = [self.leak or self.slope, self.leaked_blocks]
        return not self.failures and all(slope is not None and not slope.grows for slope in decisive)

    def sample(self) -> None:
        """Note the memory as it is now."""
        gc.collect()  # what only waits for the collector is no leak
        self.memory_mb.append(resident_memory_mb())
        self.blocks.append(sys.getallocatedblocks())
        if (in_use := heap_in_use_mb()) is not None:
            self.in_use_mb.append(in_use)

    def fit(self) -> None:
        """Fit the slopes to the samples."""
        self.slope, self.leak = fit_slope(self.memory_mb, self.seed), fit_slope(self.in_use_mb, self.seed)
        self.leaked_blocks = fit_slope(np.asarray(self.blocks) * BLOCK_MB, self.seed)

    def to_json(self) -> dict[str, Any]:
        """All of it, with what it is worth in hours of the published use."""
        return asdict(self) | {
            **{name: getattr(self, name).tolist() for name in ("memory_mb", "in_use_mb", "blocks")},
            "growth_published_mb": self.growth_published_mb,
            "steady": self.steady,
            "published_hours": self.published_hours,
            "assumed_conversations_an_hour": CONVERSATIONS_AN_HOUR,
        }

    def lines(self) -> list[str]:
        """For people."""
        said = [
            f"{self.conversations} conversations, {self.turns} questions in {self.seconds / 60:.1f} minutes; "
            f"{self.failures} failures, {self.broken_off} answers stopped half-way",
            f"as many as {self.published_hours:.1f} hours of the published {PUBLISHED_HOURS:.0f}, at one conversation "
            f"a minute (assumed; all {PUBLISHED_HOURS:.0f} are {PUBLISHED_HOURS * CONVERSATIONS_AN_HOUR:,.0f})",
        ]
        if self.slope is None:
            return [*said, "memory: too few conversations to fit a slope"]
        said.append(
            f"memory: {self.memory_mb[0]:.1f} MB after the first, {self.memory_mb[-1]:.1f} MB after the last, at most "
            f"{self.peak_mb:.1f} MB; {_told(self.slope, 1000, 'kB')}; at most {self.growth_published_mb:+.2f} MB over "
            "the published use"
        )
        if self.leak is not None:
            said.append(f"heap in use, freed memory left out: {_told(self.leak, 1000, 'kB')}")
        if self.leaked_blocks is not None:
            said.append(f"Python's blocks in use: {_told(self.leaked_blocks, 1 / BLOCK_MB, 'blocks')}")
        return [*said, *(f"failure: {one}" for one in self.failed)]


def _told(slope: Slope, scale: float, unit: str) -> str:
    value, low, high = (f"{scale * end:+.2f}" for end in (slope.value, slope.low, slope.high))
    verdict = "it grows" if slope.grows else "no growth shown"
    return f"slope {value} {unit} a conversation, 95 % interval {low} to {high}: {verdict}"


def soak(
    gguf: Path,
    hours: float,
    progress: Progress,
    *,
    questions: Sequence[str] = (),
    context: int = 512,
    max_tokens: int = 96,
    seed: int = 0,
    most: int | None = None,
) -> SoakReport:
    """Hold conversations until the time is over; Ctrl-C ends it earlier with what was seen.

    Args:
        questions: drawn from at random; the golden prompts if none are given.
        context, max_tokens: of a conversation and of its longest answers, tokens.
        most: conversations after which it ends, whatever the time.

    Raises: Problem where the file is no model. What goes wrong afterwards is counted.
    """
    if not 0 < hours < math.inf:
        raise Problem(f"{hours} hours are no time to soak", "Give --hours 0.5, for example.")
    draw, offered = random.Random(seed), list(questions) or [prompt.text for prompt in golden()]
    report, started = SoakReport(gguf.name, context, seed), time.monotonic()
    threads = default_threads(usable_cores())
    with (
        Engine(gguf, context=context, slots=1, threads=threads) as engine,
        progress.task("soak", hours * 3600, "s") as task,
    ):
        asked = _that_fit(engine, offered)
        gc.freeze()  # what was there before is not looked through after every conversation
        try:
            for _ in _time_left(hours * 3600, task):
                _converse(engine, asked, draw, max_tokens, report)
                report.sample()
                done = f"{report.conversations} conversations, {report.failures} failures"
                task.describe(f"{done}, {report.memory_mb[-1]:.0f} MB")
                if report.conversations == most:
                    break
        except KeyboardInterrupt:
            progress.say("soak: stopped; what was seen counts")
    gc.unfreeze()
    report.seconds, report.peak_mb = time.monotonic() - started, peak_memory_mb()
    report.fit()
    return report


def _time_left(seconds: float, task: Task) -> Iterator[None]:
    """Go on until the time is over; the bar shows time, so that it knows what is left."""
    started, told = time.monotonic(), 0.0
    while told < seconds:
        yield
        passed = min(time.monotonic() - started, seconds)
        task.advance(passed - told)
        told = passed


def _that_fit(engine: Engine, questions: Sequence[str]) -> list[str]:
    """Questions that leave room for an answer: a longer one is refused by right, which is no failure."""
    room = engine.context - engine.context // 4
    fitting = [text for text in questions if engine.count_tokens([{"role": "user", "content": text}]) <= room]
    if not fitting:
        raise Problem(f"no question fits into {room} tokens", "Give shorter ones, or a larger context.")
    return fitting


def fit_slope(samples: Sequence[float] | Floats, seed: int) -> Slope | None:
    """Growth a conversation over the second half (the first warms up); None where there is too little to see.

    Ordinary least squares. Samples that follow each other are alike, so the interval comes from a moving-block
    bootstrap of the residuals. Source: Künsch 1989; blocks of √n.
    """
    values = np.asarray(samples[len(samples) // 2 :], dtype=np.float64)
    n = len(values)
    if n < LEAST:
        return None
    steps = np.arange(n) - (n - 1) / 2
    weights = steps / (steps @ steps)
    centred = values - values.mean()
    slope = float(weights @ centred)
    residuals = centred - slope * steps
    block = math.ceil(math.sqrt(n))
    starts = np.random.default_rng(seed).integers(n - block + 1, size=(RESAMPLES, math.ceil(n / block)))
    drawn = residuals[(starts[..., None] + np.arange(block)).reshape(RESAMPLES, -1)[:, :n]]
    low, high = np.percentile(slope + drawn @ weights, [2.5, 97.5])
    return Slope(slope, float(low), float(high))


def _converse(
    engine: Engine, questions: Sequence[str], draw: random.Random, max_tokens: int, report: SoakReport
) -> None:
    """One conversation of one to four questions; some answers are stopped half-way."""
    sampling = Sampling(
        temperature=draw.choice((0.0, 0.7, 1.0)),
        top_p=draw.choice((0.8, 1.0)),
        top_k=draw.choice((0, 20)),
        seed=draw.randrange(1 << 31),
        max_tokens=draw.randint(max(1, max_tokens // 4), max_tokens),
        repeat_penalty=draw.choice((1.0, 1.1)),
    )
    conversation = Conversation({}, lambda _: engine, sampling, "model", engine=engine)
    report.conversations += 1
    for _ in range(draw.randint(1, 4)):
        report.turns += 1
        patience = draw.randint(1, 20) if draw.random() < BROKEN_OFF else None
        try:
            # A text of its own each time, as people's are: Python keeps things with a text once it was used.
            conversation.ask(draw.choice(questions).encode().decode(), _Reader(patience))
        except _StoppedReading:
            report.broken_off += 1
        except (Problem, RuntimeError, OSError) as error:
            report.failures += 1
            if len(report.failed) < TOLD:
                report.failed.append(f"conversation {report.conversations}: {error}")


class _StoppedReading(Exception):
    """The reader has had enough."""


class _Reader:
    """Reads an answer, the whole of it or some pieces."""

    def __init__(self, patience: int | None) -> None:
        self._patience = patience

    def __call__(self, piece: str) -> None:
        if self._patience is not None:
            self._patience -= 1
            if self._patience < 0:
                raise _StoppedReading
