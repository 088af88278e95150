"""Tail masking: the end of an answer teaches nothing for a step, now and then.

In:  which answers are learned from in which step.
Out: 1 or 0 for each of their positions.
Does not know: losses, models, stores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from potstill.recipe import TailSection


def kept_positions(
    rows: Tensor, width: int, numbers: Sequence[int], section: TailSection, seed: int, step: int
) -> Tensor:
    """1 at the positions that teach, 0 in the tails left out.

    Args:
        rows: [N] places in the flattened [B·T] of a batch, sequence after sequence. width: T.
        numbers: [B] of the examples, >= 0. section: how often, and how much is a tail (to the nearest position).
        seed, step: with an example's number they are its draw, so a resumed run masks what a whole one would.

    Returns: [N] float32. What is masked still counts among the positions that a step's sum is divided by: every
    other position then weighs the same in every step.
    """
    kept = torch.ones(len(rows))
    if section.probability == 0.0:
        return kept
    ends = torch.bincount(rows.cpu() // width, minlength=len(numbers)).cumsum(0).tolist()
    for begin, end, number in zip([0, *ends], ends, numbers, strict=False):
        if np.random.default_rng((seed, step, number)).random() < section.probability:
            kept[end - round(section.share * (end - begin)) : end] = 0.0
    return kept
