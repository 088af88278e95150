"""Training batches from the signal store.

In:  a signal store, a budget of tokens or a number of answers a batch, a seed.
Out: batches of examples of similar length, in an order that depends on seed and epoch alone.
Does not know: models, losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from potstill.models.examples import Example, batches_by_length, pad


class LengthBatches(Sampler[list[int]]):
    """Batches of similar length, in a new order every epoch.

    The composition stays, so that every epoch has the same number of steps and a resumed run finds its place.

    Args:
        lengths: tokens of each example. batch_tokens: padded tokens a batch. seed: of the order.
        answers: examples a batch, whatever their tokens; None: as many as `batch_tokens` holds.
    """

    def __init__(self, lengths: Sequence[int], batch_tokens: int, seed: int, answers: int | None = None) -> None:
        self.batches = batches_by_length(lengths, batch_tokens) if answers is None else batches_of(lengths, answers)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The order of this epoch comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of example numbers."""
        for place in np.random.default_rng((self.seed, self.epoch)).permutation(len(self.batches)):
            yield self.batches[place]

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.batches)


def batches_of(lengths: Sequence[int], answers: int) -> list[list[int]]:
    """Indices in batches of `answers` neighbours by length, longest first; the last may hold fewer."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[begin : begin + answers] for begin in range(0, len(order), answers)]


def collate(examples: Sequence[Example], numbers: Sequence[int]) -> dict[str, Tensor]:
    """One batch as tensors.

    Returns:
        input_ids: [B, T] student ids, padded on the right.
        rows: [N] places in the flattened [B·T] that predict an answer token that teaches.
        labels, shift_labels: [N] those tokens (under both names, for Trainer counts them by either).
        examples: [B] numbers in the store.
    """
    chosen = [examples[number] for number in numbers]
    ids = pad([example.ids for example in chosen])
    places = np.arange(ids.size).reshape(ids.shape)
    rows = [places[row, one.predicting] for row, one in enumerate(chosen)]
    labels = torch.from_numpy(np.concatenate([one.ids[one.predicted] for one in chosen]))
    return {
        "input_ids": torch.from_numpy(ids),
        "rows": torch.from_numpy(np.concatenate(rows)),
        "labels": labels,
        "shift_labels": labels,
        "examples": torch.tensor(list(numbers)),
    }
