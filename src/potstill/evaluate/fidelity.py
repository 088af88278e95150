"""Fidelity on held-out teacher answers: before healing, before training, and of the file that ships.

In:  the held-out signals, checkpoints, a GGUF.
Out: rows fidelity.kl, fidelity.top1, fidelity.top5, fidelity.perplexity of a scorecard.
Does not know: how students are made, speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from potstill.evaluate.scorecard import Floats, Scorecard, bootstrap, ratio
from potstill.fidelity import Fidelity
from potstill.machine import fastest_dtype, usable_cores
from potstill.models.anatomy import head_weight
from potstill.models.llama import LlamaReader
from potstill.models.reading import LAST, read_states
from potstill.models.teacher import load_model
from potstill.progress import Task
from potstill.signals.formats import HiddenRows
from potstill.signals.store import SignalStore

BATCH_TOKENS = 2048


def teacher_fidelity(store: SignalStore, task: Task) -> list[Fidelity]:
    """The teacher against itself: KL 0 and top-1 1 by definition, its perplexity by measurement."""
    found = []
    for index in range(len(store)):
        rows = store.rows_of([index])
        assert isinstance(rows, HiddenRows)
        logits = HiddenRows(rows.hidden, rows.head.float()).logits(slice(None))
        found.append(store.compare(index, logits))
        task.advance()
    return found


def checkpoint_fidelity(store: SignalStore, checkpoint: Path, task: Task) -> list[Fidelity]:
    """Fidelity of a Transformers student, answer by answer in the store's order."""
    model = load_model(checkpoint, getattr(torch, fastest_dtype()))
    head = head_weight(model).detach().float()
    found: dict[int, Fidelity] = {}
    for index, states in read_states(model, store.examples, None, (), BATCH_TOKENS):
        found[index] = store.compare(index, states[LAST].float() @ head.T)
        task.advance()
    return [found[index] for index in range(len(store))]


def gguf_fidelity(store: SignalStore, gguf: Path, task: Task) -> list[Fidelity]:
    """Fidelity of a GGUF as llama.cpp computes it: what ships is what is scored."""
    found = []
    with LlamaReader(gguf, context=max(len(e.ids) for e in store.examples) + 1, threads=usable_cores()) as reader:
        for index, logits in enumerate(_answer_logits(reader, store)):
            found.append(store.compare(index, logits))
            task.advance()
    return found


def _answer_logits(reader: LlamaReader, store: SignalStore) -> Iterator[Tensor]:
    for example in store.examples:
        yield torch.from_numpy(reader.logits(example.ids[:-1].tolist(), start=example.start - 1))


def add_fidelity(card: Scorecard, model: str, answers: list[Fidelity], resamples: int, seed: int) -> None:
    """Add one model's rows; intervals over answers."""
    positions, kl, top1, top5, surprise = np.array([astuple(answer) for answer in answers], dtype=np.float64).T

    def rows(sums: Floats) -> list[list[float]]:
        return np.stack([sums, positions], axis=1).tolist()  # type: ignore[no-any-return]

    def perplexity(sums: Floats) -> Floats:
        return np.asarray(np.exp(ratio(sums)))

    card.add("fidelity.kl", model, bootstrap(rows(kl), ratio, "nats", resamples, seed))
    card.add("fidelity.top1", model, bootstrap(rows(top1), ratio, "share", resamples, seed))
    card.add("fidelity.top5", model, bootstrap(rows(top5), ratio, "share", resamples, seed))
    card.add("fidelity.perplexity", model, bootstrap(rows(surprise), perplexity, "perplexity", resamples, seed))
