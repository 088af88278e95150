"""What a teacher with a tokenizer of its own thought, told in the student's tokens.

In:  the teacher's hidden states, its whole head, the student token that each of its tokens is bound to.
Out: `Rows` over the bound student tokens and one bucket for all that nobody binds, on either side.
Does not know: tokenizers, files, how tokens were bound.

The head is replayed for n rows at a time: [V teacher, n] numbers exist, never one for all N rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from potstill.losses import NOTHING, Sides
from potstill.recipe import LossesSection
from potstill.signals.formats import Rows

BINDING_ARRAYS = ("student_of", "sorted_weight")
"""What lies beside the head on the disk."""
SORTED = "sorted_distance"


@dataclass(frozen=True)
class BoundHead:
    """A teacher's head and what its tokens are to the student.

    Args:
        head: [U, D] over all U teacher tokens. student_of: [U] the student's token of each; negative where unbound.
        students: V, tokens the student has. sorted_weight: of the distance between what is unbound; 0 leaves it out.
    """

    head: Tensor
    student_of: Tensor
    students: int
    sorted_weight: float

    @cached_property
    def bound(self) -> Tensor:
        """[K] student tokens that some teacher token is bound to, ascending."""
        bound: Tensor = self.student_of[self.student_of >= 0].unique()
        return bound

    @cached_property
    def unbound(self) -> Tensor:
        """[V - K] the other student tokens, ascending."""
        free = torch.ones(self.students, dtype=torch.bool, device=self.student_of.device)
        free[self.bound] = False
        return free.nonzero()[:, 0]

    @cached_property
    def outcomes(self) -> Tensor:
        """[U] where each teacher token's probability goes: the number in `bound` of its token, or K: the bucket."""
        places = torch.searchsorted(self.bound, self.student_of.clamp(min=0))
        return torch.where(self.student_of >= 0, places, len(self.bound))

    def log_sums(self, log_probabilities: Tensor) -> Tensor:
        """[n, K + 1] over bound tokens and bucket, from log-probabilities [n, V] over the student's tokens.

        [n, K] where every student token is bound: no student can put anything into that bucket.
        """
        bound = log_probabilities[:, self.bound]
        if not len(self.unbound):
            return bound
        return torch.cat([bound, log_probabilities[:, self.unbound].logsumexp(dim=-1, keepdim=True)], dim=1)

    def spread(self, log_sums: Tensor) -> Tensor:
        """[n, V] from `log_sums`: the bucket shared out evenly, so that a KL over V is the KL over the outcomes."""
        everything = log_sums.new_empty(len(log_sums), self.students)
        everything[:, self.bound] = log_sums[:, : len(self.bound)]
        if len(self.unbound):
            everything[:, self.unbound] = log_sums[:, -1:] - torch.tensor(float(len(self.unbound))).log()
        return everything


@dataclass(frozen=True)
class BoundRows(Rows):
    """Probabilities of bound teacher tokens, summed onto their student tokens; one bucket for the rest of both sides.

    Args:
        hidden: [N, D] after the last norm. head: the teacher's.
    """

    divisible: ClassVar[bool] = False  # adding up runs along the rows, and the teacher's head is large

    hidden: Tensor
    head: BoundHead

    def __len__(self) -> int:
        """N."""
        return len(self.hidden)

    def at(self, rows: slice) -> BoundRows:
        """A view of them."""
        return BoundRows(self.hidden[rows], self.head)

    def sides(self, student_logits: Tensor, rows: slice, temperature: float) -> Sides:
        """Over K bound tokens and one bucket, [n, K + 1]; see `BoundHead.log_sums`."""
        student = functional.log_softmax(student_logits.float() / temperature, dim=-1)
        return self._summed(self._probabilities(rows, temperature)), self.head.log_sums(student)

    def weights(self, wanted: LossesSection) -> dict[str, float]:
        """The divergences', and that of the distance between sorted probabilities."""
        more = {SORTED: self.head.sorted_weight} if self.head.sorted_weight else {}
        return super().weights(wanted) | more

    def losses(
        self, student_logits: Tensor, rows: slice, temperature: float, wanted: LossesSection
    ) -> dict[str, Tensor]:
        """The divergences, and where it has a weight `sorted_distance` at T = 1, [n]."""
        found = super().losses(student_logits, rows, temperature, wanted)
        if self.head.sorted_weight:
            teacher = self._probabilities(rows, 1.0)[self.head.student_of < 0].T.contiguous()
            student = functional.softmax(student_logits.float(), dim=-1)[:, self.head.unbound]
            found[SORTED] = sorted_distance(teacher, student)
        return found

    def student_logits(self, rows: slice) -> Tensor:
        """[n, V] what the teacher would have a student say: log-probabilities, the bucket's shared out evenly."""
        return self.head.spread(self._summed(self._probabilities(rows, 1.0)))

    def _probabilities(self, rows: slice, temperature: float) -> Tensor:
        """[U, n]: teacher tokens first, for adding up whole rows is what memory is quick at."""
        logits = self.head.head @ self.hidden[rows].to(self.head.head.dtype).T
        return functional.softmax(logits.float() / temperature, dim=0)

    def _summed(self, probabilities: Tensor) -> Tensor:
        """[n, K + 1] log-probabilities; [n, K], scaled to the sum 1, where every student token is bound."""
        outcomes = probabilities.new_zeros(len(self.head.bound) + 1, probabilities.shape[1])
        outcomes.index_add_(0, self.head.outcomes, probabilities)
        if not len(self.head.unbound):
            outcomes = outcomes[:-1] / outcomes[:-1].sum(dim=0, keepdim=True)
        return outcomes.T.log().clamp(min=NOTHING)


def sorted_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Sum of |p - q| over two lists of probabilities, each from the largest to the smallest, the shorter one filled up
    with 0: how far apart two distributions are whose outcomes have no common names.

    Args:
        teacher: [n, U]. student: [n, W]; gradients flow through it alone.

    Returns: [n] >= 0, 0 where both hold the same probabilities in whatever order.
    Source: the closed form of the universal logit distillation loss, arXiv:2402.12030.
    """
    longest = max(teacher.shape[1], student.shape[1])
    sides = (
        functional.pad(side.sort(dim=-1, descending=True).values, (0, longest - side.shape[1]))
        for side in (teacher.detach(), student)
    )
    ours, theirs = sides
    return (ours - theirs).abs().sum(dim=-1)
