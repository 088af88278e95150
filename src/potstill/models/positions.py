"""The shift between inputs and labels, for the whole project.

In:  where an answer starts in a sequence; which of its tokens are wanted.
Out: which positions predict its tokens, and which tokens those are.
Does not know: models, losses, padding beyond the end of a sequence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Places = slice | NDArray[np.int64]


def predicting(start: int, length: int, places: NDArray[np.int64] | None = None) -> Places:
    """Positions whose hidden state predicts the answer: position t-1 predicts token t.

    Args:
        start: index of the answer's first token, >= 1.
        length: tokens in the whole sequence.
        places: [n] numbers of the wanted answer tokens, from 0; None: all.

    Returns: a slice with one position for each of the length - start answer tokens, or [n] positions.
    Raises: ValueError where nothing comes before the answer, or nothing of it is left.
    """
    if not 1 <= start < length:
        raise ValueError(f"an answer from {start} in a sequence of {length} has no position that predicts it")
    return slice(start - 1, length - 1) if places is None else start - 1 + places


def predicted(start: int, length: int, places: NDArray[np.int64] | None = None) -> Places:
    """The answer's own tokens: the labels of `predicting`."""
    return slice(start, length) if places is None else start + places
