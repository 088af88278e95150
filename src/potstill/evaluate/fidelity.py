"""Fidelity on held-out teacher answers: before healing, before training, and of every file that ships.

In:  the held-out signals, checkpoints, GGUFs.
Out: rows fidelity.kl, fidelity.top1, fidelity.top5, fidelity.perplexity of a scorecard, by category and position too.
Does not know: how students are made, speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from potstill.evaluate.scorecard import Scorecard, bootstrap, perplexity, ratio
from potstill.fidelity import Fidelity, add_up
from potstill.machine import fastest_dtype, usable_cores
from potstill.models.anatomy import head_weight
from potstill.models.llama import LlamaReader
from potstill.models.reading import BATCH_TOKENS, LAST, read_states
from potstill.models.teacher import load_model
from potstill.progress import Task
from potstill.signals.store import SignalStore

ENDS = (16, 64)
"""Where an answer is cut to see whether a student loses its way: an opening, a middle, all that comes later."""
STRETCHES = ("tokens_1_16", "tokens_17_64", "tokens_65_on")

Stretches = list[Fidelity]
"""One answer, stretch by stretch."""


def spread_over(store: SignalStore, most: int | None) -> list[int]:
    """Indices of the answers to compare: all, or `most` of them in even steps over the store, categories in turn."""
    ordered = sorted(range(len(store)), key=lambda index: (store.examples[index].category, index))
    count = len(ordered) if most is None else min(most, len(ordered))
    return sorted(ordered[place * len(ordered) // count] for place in range(count)) if count else []


def teacher_fidelity(store: SignalStore, chosen: Sequence[int], task: Task) -> list[Stretches]:
    """The teacher against itself: KL 0 and top-1 1 by definition, its perplexity by measurement."""
    found = []
    for index in chosen:
        found.append(store.compare(index, store.teacher_logits(index), ENDS))
        task.advance()
    return found


def checkpoint_fidelity(store: SignalStore, chosen: Sequence[int], checkpoint: Path, task: Task) -> list[Stretches]:
    """Fidelity of a Transformers student, answer by answer in the order chosen."""
    model = load_model(checkpoint, getattr(torch, fastest_dtype()))
    head = head_weight(model).detach().float()
    found: dict[int, Stretches] = {}
    examples = [store.examples[index] for index in chosen]
    for place, states in read_states(model, examples, None, (), BATCH_TOKENS):
        found[place] = store.compare(chosen[place], states[LAST].float() @ head.T, ENDS)
        task.advance()
    return [found[place] for place in range(len(chosen))]


def gguf_fidelity(store: SignalStore, chosen: Sequence[int], gguf: Path, task: Task) -> list[Stretches]:
    """Fidelity of a GGUF as llama.cpp computes it: what ships is what is scored."""
    found = []
    longest = max(len(store.examples[index].ids) for index in chosen)
    with LlamaReader(gguf, context=longest + 1, threads=usable_cores()) as reader:
        for index, logits in zip(chosen, _answer_logits(reader, store, chosen), strict=True):
            found.append(store.compare(index, logits, ENDS))
            task.advance()
    return found


def _answer_logits(reader: LlamaReader, store: SignalStore, chosen: Sequence[int]) -> Iterator[Tensor]:
    for index in chosen:
        example = store.examples[index]
        yield torch.from_numpy(reader.logits(example.ids[:-1].tolist(), start=example.start - 1))


def add_fidelity(
    card: Scorecard, model: str, answers: list[Stretches], categories: Sequence[str], resamples: int, seed: int
) -> None:
    """Add one model's rows; intervals over answers.

    Args:
        answers: stretch by stretch. categories: of the same answers.
    """
    parts = {"": [add_up(answer) for answer in answers]}
    for category in sorted(set(categories)):
        parts[f".{category}"] = [
            add_up(answer) for answer, one in zip(answers, categories, strict=True) if one == category
        ]
    for place, stretch in enumerate(STRETCHES):
        parts[f".{stretch}"] = [answer[place] for answer in answers if answer[place].positions]
    for suffix, sums in parts.items():
        if not sums:
            continue
        table = np.array([astuple(one) for one in sums], dtype=np.float64).T
        for metric, column, unit in (("kl", 1, "nats"), ("top1", 2, "share"), ("top5", 3, "share")):
            rows = np.stack([table[column], table[0]], axis=1).tolist()
            card.add(f"fidelity.{metric}{suffix}", model, bootstrap(rows, ratio, unit, resamples, seed))
        rows = np.stack([table[4], table[0]], axis=1).tolist()
        card.add(f"fidelity.perplexity{suffix}", model, bootstrap(rows, perplexity, "perplexity", resamples, seed))
