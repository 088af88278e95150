"""A question and its answer as one sequence, and batches of such sequences.

In:  token ids; where the answer starts.
Out: `Example`s, batches by length, padded arrays.
Does not know: tokenizers, models, storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Example:
    """A templated question and its answer.

    Args:
        id: the prompt's id.
        category: the prompt's category.
        ids: [T] int64 student token ids.
        start: index of the answer's first token, >= 1.
    """

    id: str
    category: str
    ids: NDArray[np.int64]
    start: int

    @property
    def rows(self) -> int:
        """Answer tokens: the positions that teach."""
        return len(self.ids) - self.start


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices in batches of similar length whose padded size stays within `batch_tokens`, longest first.

    Longest first, so that the batch that needs most memory comes before anything is invested.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        longest = lengths[batches[-1][0]] if batches else 0
        if batches and longest * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def pad(sequences: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """[B, T] with zeros on the right; causal attention keeps them from every real position."""
    padded = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = sequence
    return padded
