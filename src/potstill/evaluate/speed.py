"""Speed and memory of the GGUFs, in turn, each at its own best thread setting.

In:  GGUFs by model name, questions.
Out: rows speed.*, memory.*, size.* of a scorecard.
Does not know: what the models say.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from potstill.evaluate.scorecard import Scorecard, bootstrap, fact, mean_of, ratio
from potstill.machine import usable_cores
from potstill.models.conversation import messages
from potstill.models.engine import Threads
from potstill.models.speed import SpeedSample, alternate, best_threads, candidate_threads, is_idle
from potstill.progress import Progress
from potstill.recipe import EvaluateSection


def measure_speed(
    models: Mapping[str, Path], questions: Sequence[str], section: EvaluateSection, progress: Progress
) -> tuple[dict[str, Threads], dict[str, list[SpeedSample]]]:
    """Choose each model's threads by a short trial, then time all in turn.

    Returns: the settings chosen; one sample a round for every model.
    """
    conversations = [messages(question) for question in questions]
    candidates = candidate_threads(usable_cores(), idle=is_idle())
    chosen: dict[str, Threads] = {}
    with progress.task("best thread setting", len(models), "models") as task:
        for name, gguf in models.items():
            task.describe(name)
            chosen[name] = best_threads(
                gguf, candidates, conversations[:1], new_tokens=section.new_tokens, context=section.context
            )
            task.advance()
    samples = alternate(
        {name: (gguf, chosen[name]) for name, gguf in models.items()},
        conversations,
        rounds=section.rounds,
        new_tokens=section.new_tokens,
        context=section.context,
        progress=progress,
    )
    return chosen, samples


def add_speed(
    card: Scorecard, models: Mapping[str, Path], samples: Mapping[str, Sequence[SpeedSample]], resamples: int, seed: int
) -> None:
    """Add the rows; an independent sample is one process, its value the median over its questions."""
    for name, gguf in models.items():
        runs = samples[name]
        first = [statistics.median(run.first_token_ms) for run in runs]
        decode = [statistics.median(run.decode_tok_s) for run in runs]
        for metric, values, unit in (
            ("speed.first_token_ms", first, "ms"),
            ("speed.decode_tok_s", decode, "tokens/s"),
            ("speed.load_s", [run.load_s for run in runs], "s"),
            ("memory.peak_mb", [run.peak_mb for run in runs], "MB"),
        ):
            card.add(metric, name, bootstrap(mean_of(values), ratio, unit, resamples, seed))
        card.add("size.file_mb", name, fact(gguf.stat().st_size / 1e6, "MB"))
