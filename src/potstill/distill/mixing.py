"""Batches of given answers mixed with batches of the teacher's own, by share.

In:  examples, how batches of one kind are composed, a share, a seed.
Out: batches that hold one kind each, in an order that depends on seed and epoch alone.
Does not know: models, losses, what given answers teach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from potstill.models.examples import Example
from potstill.problem import Problem

Compose = Callable[[Sequence[int]], list[list[int]]]
"""From lengths to batches of their indices."""


class MixedBatches(Sampler[list[int]]):
    """An epoch holds every batch of both kinds at least once; the kind that is scarce for the share comes again.

    Args:
        examples: all of them, given answers marked. share: of the batches, those of given answers.
        compose: batches of one kind. seed: of the order.

    Raises: Problem where the share asks for a kind of which there is none.
    """

    def __init__(self, examples: Sequence[Example], share: float, compose: Compose, seed: int) -> None:
        self.given = _batches(examples, True, compose)
        self.taught = _batches(examples, False, compose)
        if (share > 0.0 and not self.given) or (share < 1.0 and not self.taught):
            kind = "given answers" if not self.given else "answers by the teacher"
            raise Problem(f"distill.joint.share = {share:g}, but the signals hold no {kind}", _REMEDY)
        self.counts = _counts(len(self.given), len(self.taught), share)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The order of this epoch comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of example numbers."""
        random = np.random.default_rng((self.seed, self.epoch))
        given, taught = _in_turn(self.given, random), _in_turn(self.taught, random)
        for place in random.permutation(len(self)):
            yield next(given if place < self.counts[0] else taught)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return sum(self.counts)


_REMEDY = "Name a file with answers under [[prompts.files]], set another share, or delete `signals` if it is older."


def _batches(examples: Sequence[Example], given: bool, compose: Compose) -> list[list[int]]:
    numbers = [number for number, example in enumerate(examples) if example.given == given]
    return [[numbers[index] for index in batch] for batch in compose([len(examples[n].ids) for n in numbers])]


def _counts(given: int, taught: int, share: float) -> tuple[int, int]:
    """Fewest batches of each kind that hold the share and every batch of both."""
    if share in (0.0, 1.0):
        return (given, 0) if share else (0, taught)
    total = max(given / share, taught / (1 - share))
    return max(given, round(total * share)), max(taught, round(total * (1 - share)))


def _in_turn(batches: Sequence[list[int]], random: np.random.Generator) -> Iterator[list[int]]:
    """All of them in a random order, then in another."""
    while batches:
        for place in random.permutation(len(batches)):
            yield batches[place]
