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

from potstill.models.positions import Places, predicted, predicting


@dataclass(frozen=True)
class Example:
    """A templated question and its answer.

    Args:
        id: the prompt's id.
        category: the prompt's category.
        ids: [T] int64 student token ids.
        start: index of the answer's first token, >= 1.
        given: the answer came with the prompt; the teacher did not write it.
        places: ascending numbers (from 0) of the answer tokens that teach; None: all of them. A teacher that cuts text
            otherwise has something to say only where a token of its own begins.
    """

    id: str
    category: str
    ids: NDArray[np.int64]
    start: int
    given: bool = False
    places: NDArray[np.int64] | None = None

    @property
    def rows(self) -> int:
        """Answer tokens that teach."""
        return len(self.ids) - self.start if self.places is None else len(self.places)

    @property
    def predicting(self) -> Places:
        """Positions whose hidden state predicts those tokens."""
        return predicting(self.start, len(self.ids), self.places)

    @property
    def predicted(self) -> Places:
        """Those tokens."""
        return predicted(self.start, len(self.ids), self.places)


def evenly(examples: Sequence[Example], tokens: int) -> list[Example]:
    """Examples from all over the list, evenly spaced, of about `tokens` answer tokens together."""
    step = max(1, round(sum(example.rows for example in examples) / max(tokens, 1)))
    return list(examples[::step])


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
