"""What the student's distribution is trained on: all logit losses in one pass over the head, chunk by chunk.

In:  student states at N answer positions, the teacher's rows and the answer's tokens at the same positions.
Out: the weighted sum over positions, differentiable, and every loss's own sum.
Does not know: batches, padding, optimisers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from potstill.losses import cross_entropy
from potstill.recipe import JointSection, LossesSection
from potstill.signals.formats import Rows

CACHED = 2**18
"""Logits of a few rows, 1 MB in float32: what stays in a core's own cache from one operation to the next."""

GATHERED = 8
"""Chunks whose gradients wait for one product with the head's inputs: each product writes all of the head's gradient,
which costs more than computing it where the rows are few."""


class Taught(Protocol):
    """What N rows of logits are trained on."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Name → [N] weight of that loss at each row."""

    @property
    def divisible(self) -> bool:
        """A few of the rows that `at` gives cost no more than their share."""

    def at(self, rows: slice) -> Taught:
        """Those rows alone, ready to be asked."""

    def losses(self, logits: Tensor, rows: slice) -> Mapping[str, Tensor]:
        """From logits [n, V] of some rows to each loss [n]."""


@dataclass(frozen=True)
class Lesson:
    """What N answer positions teach.

    Args:
        teacher: what it thought there. tokens: [N] what was said. temperature: of the divergences.
        section: which losses. weights: name → [N] weight of that loss at each position; 0 leaves it out there.
    """

    teacher: Rows
    tokens: Tensor
    temperature: float
    section: LossesSection
    weights: Mapping[str, Tensor]

    @property
    def divisible(self) -> bool:
        """As the teacher's rows are."""
        return self.teacher.divisible

    def at(self, rows: slice) -> Lesson:
        """What those positions teach."""
        weights = {name: weight[rows] for name, weight in self.weights.items()}
        return replace(self, teacher=self.teacher.at(rows), tokens=self.tokens[rows], weights=weights)

    def losses(self, logits: Tensor, rows: slice) -> dict[str, Tensor]:
        """Each loss that counts anywhere, [n], not weighted."""
        found: dict[str, Tensor] = {}
        if self.weights.keys() - {"cross_entropy"}:
            found |= self.teacher.losses(logits, rows, self.temperature, self.section)
        if "cross_entropy" in self.weights:
            found["cross_entropy"] = cross_entropy(logits, self.tokens[rows])
        return {name: found[name] for name in self.weights}

    def only(self, name: str) -> Lesson:
        """This one loss alone."""
        return replace(self, weights={name: self.weights[name]})


def position_weights(
    divergences: Mapping[str, float], cross: float, joint: JointSection, given: Tensor, kept: Tensor
) -> dict[str, Tensor]:
    """Weight of every logit loss at each position; losses that count nowhere are left out.

    Args:
        divergences: name → weight of what is learned from the teacher's distribution. cross: of the cross entropy.
        joint: what given answers teach. given: [N] true where the answer was given. kept: [N] 0 in masked tails.

    With `joint.losses = "cross_entropy"` a given answer counts with its own tokens alone, at weight 1 where the
    recipe gives cross entropy none.
    """
    everywhere, apart = kept.float(), joint.losses == "cross_entropy"
    teacher_s = everywhere * ~given if apart else everywhere
    weights = {name: weight * teacher_s for name, weight in divergences.items()}
    weights["cross_entropy"] = cross * everywhere
    if apart:
        weights["cross_entropy"] = torch.where(given, (cross or 1.0) * everywhere, weights["cross_entropy"])
    return {name: weight for name, weight in weights.items() if weight.any()}


class _ChunkedHead(torch.autograd.Function):
    """Losses and gradients chunk by chunk, so that only `chunk` rows of logits ever exist, and few in float32.

    Their gradients are kept in `dtype` for `GATHERED` chunks at most. Forward computes the gradients too (the loss is a
    sum, its outer gradient a scalar), which spares a second computation of the logits. Source of the idea: fused linear
    losses, arXiv:2410.10989; for KD, arXiv:2608.03796.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, taught: Taught, chunk: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        head, inputs = weight.detach().to(dtype), states.detach().to(dtype)
        sums = states.new_zeros(len(taught.weights) + 1, dtype=torch.float32)
        state_gradient = torch.empty_like(states)
        # None where the head is frozen: in a small student it would be the largest product of the step.
        weight_gradient: Tensor | None = None
        for group in _slices(0, len(states), GATHERED * chunk):
            gathered = inputs.new_empty(group.stop - group.start, len(head))
            for rows in _slices(group.start, group.stop, chunk):
                part = gathered[rows.start - group.start : rows.stop - group.start]
                torch.matmul(inputs[rows], head.T, out=part)
                sums += _to_gradients(part, taught.at(rows))
                state_gradient[rows] = part @ head
            if ctx.needs_input_grad[1]:
                product = gathered.T @ inputs[group]
                weight_gradient = product.to(weight.dtype) if weight_gradient is None else weight_gradient.add_(product)
        ctx.save_for_backward(state_gradient, weight_gradient)
        ctx.mark_non_differentiable(each := sums[1:].clone())
        return sums[0].clone(), each

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        state_gradient, weight_gradient = ctx.saved_tensors
        to_weight = None if weight_gradient is None else weight_gradient * outer[0]
        return state_gradient * outer[0], to_weight, None, None, None


def _to_gradients(logits: Tensor, taught: Taught) -> Tensor:
    """Exchange logits [n, V] for the gradient of their weighted losses, in place.

    Returns: the weighted sum of all losses, then each loss's own, unweighted, where it has a weight.
    """
    few = max(1, CACHED // logits.shape[1]) if taught.divisible and logits.device.type == "cpu" else len(logits)
    sums = logits.new_zeros(len(taught.weights) + 1, dtype=torch.float32)
    for rows in _slices(0, len(logits), few):
        with torch.enable_grad():
            own = logits[rows].float().detach().requires_grad_()
            each = taught.losses(own, rows)
            value = torch.stack([(weight[rows] * each[name]).sum() for name, weight in taught.weights.items()]).sum()
            (gradient,) = torch.autograd.grad(value, own)
        counted = [each[name].detach()[weight[rows] != 0].sum() for name, weight in taught.weights.items()]
        sums += torch.stack([value.detach(), *counted])
        logits[rows] = gradient
    return sums


def _slices(begin: int, end: int, size: int) -> list[slice]:
    """Neighbours of at most `size`."""
    return [slice(start, min(start + size, end)) for start in range(begin, end, size)]


def head_losses(
    states: Tensor, weight: Tensor, taught: Taught, chunk: int, dtype: torch.dtype
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum over rows of all losses on the head's logits.

    Args:
        states: [N, d] after the last norm. weight: [V, d] the head.
        taught: the losses and their weights; where it has none, nothing is computed.
        chunk: rows whose logits exist at a time.
        dtype: of the matrix products; the losses themselves are float32.

    Returns: scalar float32, differentiable in `states` and `weight`; name → sum, unweighted, over the rows where
    that loss has a weight.
    """
    if not taught.weights:
        return states.float().sum() * 0.0, {}
    total, sums = _ChunkedHead.apply(states, weight, taught, chunk, dtype)  # type: ignore[no-untyped-call]
    return total, dict(zip(taught.weights, sums, strict=True))
