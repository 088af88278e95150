"""Speed, memory and the feel of reading along, of GGUFs in turn, each at its own best thread setting.

In:  GGUFs by model name, questions.
Out: rows speed.*, stream.*, memory.*, size.*, energy.* of a scorecard.
Does not know: what the models say.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from potstill.evaluate.scorecard import Measure, Scorecard, fact, repeated, unmeasured
from potstill.machine import usable_cores
from potstill.models.conversation import messages
from potstill.models.engine import Threads
from potstill.models.gguf_adapter import parts_of
from potstill.models.speed import (
    SpeedSample,
    alternate,
    candidate_threads,
    fastest,
    is_idle,
    sample_from,
    trial_rates,
)
from potstill.progress import Progress
from potstill.recipe import EvaluateSection

LONG_CHARACTERS = 160
GIVEN_UP = "given up: several times slower than the first"
"""A long question: with a tokenizer that knows no Chinese (three tokens a character), it still fits with its answer."""


@dataclass(frozen=True)
class SpeedResult:
    """What was timed.

    Args:
        lengths: of each question: "short", "middle" or "long". rates: model → (threads, tokens/s) of the trial.
        samples: model → one sample a round.
    """

    lengths: tuple[str, ...]
    rates: dict[str, list[tuple[Threads, float]]]
    samples: dict[str, list[SpeedSample]]

    def to_json(self) -> dict[str, Any]:
        """For `read_result`."""
        return {
            "lengths": self.lengths,
            "rates": {name: [[asdict(one), rate] for one, rate in tried] for name, tried in self.rates.items()},
            "samples": {name: [asdict(sample) for sample in listed] for name, listed in self.samples.items()},
        }


def read_result(fields: Mapping[str, Any]) -> SpeedResult:
    """A `SpeedResult` from its JSON."""
    return SpeedResult(
        tuple(fields["lengths"]),
        {name: [(Threads(**one), rate) for one, rate in tried] for name, tried in fields["rates"].items()},
        {name: [sample_from(sample) for sample in listed] for name, listed in fields["samples"].items()},
    )


def choose_questions(texts: Sequence[str], middle: int) -> list[tuple[str, str]]:
    """(length, question): the shortest, `middle` of middle length (what a person types), and a long one.

    Those above `LONG_CHARACTERS` are left out where there are others: they need not fit the timed engine's context.
    """
    ordered = sorted(texts, key=len)
    ordered = [text for text in ordered if len(text) <= LONG_CHARACTERS] or ordered[:1]
    begin = max(0, len(ordered) // 2 - middle // 2)
    return [
        ("short", ordered[0]),
        *(("middle", text) for text in ordered[begin : begin + middle]),
        ("long", ordered[-1]),
    ]


def measure_speed(
    models: Mapping[str, Path],
    variants: Mapping[str, Path],
    questions: Sequence[tuple[str, str]],
    section: EvaluateSection,
    progress: Progress,
) -> SpeedResult:
    """Choose each model's threads by a short trial, then time all in turn.

    Args:
        models: by name; the student's is "student". variants: other files of the student, timed with its threads.
        questions: (length, text).
    """
    conversations = [messages(text) for _, text in questions]
    candidates = candidate_threads(usable_cores(), idle=is_idle())
    rates: dict[str, list[tuple[Threads, float]]] = {}
    with progress.task("best thread setting", len(models), "models") as task:
        for name, gguf in models.items():
            task.describe(name)
            tried = trial_rates(
                gguf, candidates, conversations[:1], new_tokens=section.new_tokens, context=section.context
            )
            rates[name] = list(zip(candidates, tried, strict=True))
            task.advance()
    chosen = {name: fastest(candidates, [rate for _, rate in tried]) for name, tried in rates.items()}
    samples = alternate(
        {name: (gguf, chosen.get(name, chosen["student"])) for name, gguf in {**models, **variants}.items()},
        conversations,
        rounds=section.rounds,
        new_tokens=section.new_tokens,
        context=section.context,
        progress=progress,
    )
    return SpeedResult(tuple(length for length, _ in questions), rates, samples)


def add_speed(card: Scorecard, files: Mapping[str, Path], result: SpeedResult) -> None:
    """Add the rows; an independent sample is one process, its value the median over its questions."""

    def add(metric: str, name: str, values: Sequence[float], unit: str) -> None:
        card.add(metric, name, repeated(values, unit))

    for name, gguf in files.items():
        runs = result.samples[name]
        for length, suffix in (("middle", ""), ("short", ".short"), ("long", ".long")):
            first = [_of_length(run.first_token_ms, result.lengths, length) for run in runs]
            add(f"speed.first_token_ms{suffix}", name, first, "ms")
        add("speed.decode_tok_s", name, [statistics.median(run.decode_tok_s) for run in runs], "tokens/s")
        for threads, rate in result.rates.get(name, []):
            spinning = "_active" if threads.waiting == "ACTIVE" else ""
            metric = f"speed.decode_tok_s.{threads.decode}_threads{spinning}"
            trial = Measure(rate, 1, None, None, "tokens/s") if rate else unmeasured("tokens/s", GIVEN_UP)
            card.add(metric, name, trial)
        add("speed.load_s", name, [run.load_s for run in runs], "s")
        for percent, metric in ((50, "gap_p50_ms"), (95, "gap_p95_ms"), (100, "gap_longest_ms")):
            add(f"stream.{metric}", name, [_gap(run, percent) for run in runs], "ms")
        add("stream.characters_s", name, [statistics.median(run.characters_s) for run in runs], "characters/s")
        add("memory.peak_mb", name, [run.peak_mb for run in runs], "MB")
        add("memory.steady_mb", name, [run.steady_mb for run in runs], "MB")
        card.add("size.file_mb", name, fact(parts_of(gguf).bytes / 1e6, "MB"))
        joules = [run.joules_per_token for run in runs if run.joules_per_token is not None]
        if joules:
            add("energy.joules_per_token", name, joules, "J/token")


def _of_length(values: Sequence[float], lengths: Sequence[str], length: str) -> float:
    return statistics.median(value for value, one in zip(values, lengths, strict=True) if one == length)


def _gap(run: SpeedSample, percent: float) -> float:
    """A percentile of all gaps of one process; 0 where every answer came in one piece."""
    gaps = [gap for answer in run.gaps_ms for gap in answer]
    return float(np.percentile(gaps, percent)) if gaps else 0.0
