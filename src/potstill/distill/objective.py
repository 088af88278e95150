"""What the student is trained on: the head's loss, in chunks, and the hidden states' cosine.

In:  student states at N answer positions, the teacher's rows for the same positions.
Out: sums over positions, differentiable.
Does not know: batches, padding, optimisers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

RowLoss = Callable[[Tensor, slice], Tensor]
"""From logits [n, V] of some rows to their losses [n]."""


class _ChunkedHead(torch.autograd.Function):
    """Loss and gradients chunk by chunk, so that only `chunk` rows of logits ever exist.

    Forward computes the gradients too (the loss is a sum, its outer gradient a scalar), which spares a second
    computation of the logits. Source of the idea: fused linear losses, arXiv:2410.10989; for KD, arXiv:2608.03796.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, loss: RowLoss, chunk: int, dtype: torch.dtype) -> Tensor:
        head = weight.detach().to(dtype)
        total = states.new_zeros((), dtype=torch.float32)
        state_gradient = torch.empty_like(states)
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32)
        for begin in range(0, len(states), chunk):
            rows = slice(begin, min(begin + chunk, len(states)))
            part = states[rows].detach().to(dtype)
            with torch.enable_grad():
                logits = (part @ head.T).float().requires_grad_()
                value = loss(logits, rows).sum()
                (gradient,) = torch.autograd.grad(value, logits)
            total += value.detach()
            gradient = gradient.to(dtype)
            state_gradient[rows] = (gradient @ head).to(states.dtype)
            weight_gradient += gradient.T @ part
        ctx.save_for_backward(state_gradient, weight_gradient.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        state_gradient, weight_gradient = ctx.saved_tensors
        return state_gradient * outer[0], weight_gradient * outer[0], None, None, None


def head_loss(states: Tensor, weight: Tensor, loss: RowLoss, chunk: int, dtype: torch.dtype) -> Tensor:
    """Sum over rows of `loss` on the head's logits.

    Args:
        states: [N, d] after the last norm. weight: [V, d] the head.
        loss: from logits [n, V] and the rows they belong to, to losses [n].
        chunk: rows whose logits exist at a time.
        dtype: of the matrix products; the loss itself is float32.

    Returns: scalar float32, differentiable in `states` and `weight`.
    """
    return _ChunkedHead.apply(states, weight, loss, chunk, dtype)  # type: ignore[no-any-return, no-untyped-call]
