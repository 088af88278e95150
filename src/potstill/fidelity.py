"""How close a student's expectations are to its teacher's, answer by answer.

In:  logits of both over the same vocabulary at the answer positions of one answer, and the tokens that came.
Out: sums over those positions, and means over answers.
Does not know: models, stores, files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from potstill.losses import forward_kl


@dataclass(frozen=True)
class Fidelity:
    """Sums over the positions of one answer (or of many, added up).

    Args:
        positions: answer positions. kl: nats, KL(teacher ‖ student) at T = 1. top1, top5: positions where the
        teacher's likeliest token is the student's first, or among its first five. surprise: nats, −log q(token).
    """

    positions: int
    kl: float
    top1: int
    top5: int
    surprise: float

    def __add__(self, other: Fidelity) -> Fidelity:
        """Sums over both."""
        return Fidelity(
            self.positions + other.positions,
            self.kl + other.kl,
            self.top1 + other.top1,
            self.top5 + other.top5,
            self.surprise + other.surprise,
        )


NOTHING = Fidelity(0, 0.0, 0, 0, 0.0)


def compare(teacher_logits: Tensor, student_logits: Tensor, tokens: Tensor) -> Fidelity:
    """Fidelity of one answer.

    Args:
        teacher_logits, student_logits: [n, V]. tokens: [n] the answer.
    """
    best = teacher_logits.argmax(dim=-1)
    first = student_logits.topk(min(5, student_logits.shape[1]), dim=-1).indices
    surprise = torch.nn.functional.cross_entropy(student_logits.float(), tokens, reduction="sum")
    return Fidelity(
        positions=len(tokens),
        kl=float(forward_kl(teacher_logits, student_logits, 1.0).double().sum()),
        top1=int((first[:, 0] == best).sum()),
        top5=int((first == best[:, None]).any(dim=-1).sum()),
        surprise=float(surprise),
    )


def add_up(answers: Iterable[Fidelity]) -> Fidelity:
    """One `Fidelity` over all answers."""
    return sum(answers, NOTHING)
