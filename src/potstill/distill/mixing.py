"""Batches of two kinds of examples, mixed by share: given answers or the teacher's, people's questions or made-up ones.

In:  examples, which two kinds, how batches of one kind are composed, a share, a seed.
Out: batches that hold one kind each, in an order that depends on seed and epoch alone.
Does not know: models, losses, what either kind teaches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from potstill.models.examples import Example
from potstill.problem import Problem
from potstill.prompts.prompt import is_made_up_id
from potstill.recipe import DistillSection

Compose = Callable[[Sequence[int]], list[list[int]]]
"""From lengths to batches of their indices."""


@dataclass(frozen=True)
class Mix:
    """Two kinds of examples, and how much there shall be of each.

    Args:
        key: where the recipe asks for it. share: of the batches, those of the first kind. names: of both kinds.
        is_first: tells whether an example is of the first kind. remedy: what gives the kind that is missing.
    """

    key: str
    share: float
    names: tuple[str, str]
    is_first: Callable[[Example], bool]
    remedy: str


def mix_of(section: DistillSection) -> Mix | None:
    """What the recipe mixes; None: examples are read as they come."""
    if section.joint.share is not None:
        names = ("given answers", "answers by the teacher")
        remedy = "Name a file with answers under [[prompts.files]]"
        return Mix("distill.joint.share", section.joint.share, names, lambda one: one.given, remedy)
    if section.people_share is not None:
        names = ("questions by people", "made-up questions")
        remedy = "Keep prompts.golden or name a file under [[prompts.files]], and set prompts.synthetic.count"
        return Mix("distill.people_share", section.people_share, names, lambda one: not is_made_up_id(one.id), remedy)
    return None


class MixedBatches(Sampler[list[int]]):
    """An epoch holds every batch of both kinds at least once; the kind that is scarce for the share comes again.

    Args:
        examples: all of them. mix: the kinds and their share. compose: batches of one kind. seed: of the order.

    Raises: Problem where the share asks for a kind of which there is none.
    """

    def __init__(self, examples: Sequence[Example], mix: Mix, compose: Compose, seed: int) -> None:
        self.first = _batches(examples, mix.is_first, compose)
        self.second = _batches(examples, lambda one: not mix.is_first(one), compose)
        if (mix.share > 0.0 and not self.first) or (mix.share < 1.0 and not self.second):
            missing = mix.names[1 if self.first else 0]
            raise Problem(
                f"{mix.key} = {mix.share:g}, but the signals hold no {missing}",
                f"{mix.remedy}, set another share, or delete `signals` if it is older.",
            )
        self.counts = _counts(len(self.first), len(self.second), mix.share)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The order of this epoch comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of example numbers."""
        random = np.random.default_rng((self.seed, self.epoch))
        first, second = _in_turn(self.first, random), _in_turn(self.second, random)
        for place in random.permutation(len(self)):
            yield next(first if place < self.counts[0] else second)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return sum(self.counts)


def _batches(examples: Sequence[Example], chosen: Callable[[Example], bool], compose: Compose) -> list[list[int]]:
    numbers = [number for number, example in enumerate(examples) if chosen(example)]
    return [[numbers[index] for index in batch] for batch in compose([len(examples[n].ids) for n in numbers])]


def _counts(first: int, second: int, share: float) -> tuple[int, int]:
    """Fewest batches of each kind that hold the share and every batch of both."""
    if share in (0.0, 1.0):
        return (first, 0) if share else (0, second)
    total = max(first / share, second / (1 - share))
    return max(first, round(total * share)), max(second, round(total * (1 - share)))


def _in_turn(batches: Sequence[list[int]], random: np.random.Generator) -> Iterator[list[int]]:
    """All of them in a random order, then in another."""
    while batches:
        for place in random.permutation(len(batches)):
            yield batches[place]
