"""What the cut is measured on: the run's own answers, then passages of the recipe's text files.

In:  `signals/` (training ids), the student's tokenizer, text files.
Out: batches of student ids, ids of the model it is cut from, and lengths.
Does not know: models.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from potstill.models.conversation import text_ids
from potstill.models.examples import batches_by_length, pad
from potstill.models.teacher import load_tokenizer
from potstill.run import Run
from potstill.signals.store import SignalStore
from potstill.texts import passages

PASSAGE_CHARACTERS = 600
SHORTEST = 8
"""Sequences below this many tokens say little beyond their first position."""


def calibration_batches(run: Run, base_ids: Tensor | None) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Student ids [B, T], base ids [B, T] and lengths [B] of each batch, up to the recipe's token count.

    Args:
        base_ids: [V] the base's id of each student id; None where they are the same.
    """
    sequences, tokens = [], 0
    for ids in _sequences(run):
        if tokens >= run.recipe.prune.calibration_tokens:
            break
        sequences.append(ids)
        tokens += len(ids)
    batches = batches_by_length([len(ids) for ids in sequences], run.recipe.signals.batch_tokens)
    student = [torch.from_numpy(pad([sequences[index] for index in batch])) for batch in batches]
    lengths = [torch.tensor([len(sequences[index]) for index in batch]) for batch in batches]
    return student, student if base_ids is None else [base_ids[ids] for ids in student], lengths


def _sequences(run: Run) -> Iterator[NDArray[np.int64]]:
    store = SignalStore(run.stage("signals"), "train")
    yield from (example.ids for example in store.examples if len(example.ids) >= SHORTEST)
    if run.recipe.prune.texts:
        tokenizer = load_tokenizer(run.stage("vocab"))
        for passage in passages(run.recipe.prune.texts, PASSAGE_CHARACTERS):
            ids = np.array(text_ids(tokenizer, passage)[: run.recipe.signals.context], dtype=np.int64)
            if len(ids) >= SHORTEST:
                yield ids
