"""Root mean square norms whose gradient is written out.

In:  hidden states of whole sequences, on a CPU.
Out: the same norm as Transformers computes, and its gradient.
Does not know: where in a model a norm stands, losses.

Transformers' norm is eight operations, each over all of the states, and keeps these twice for its gradient, once of
them in float32 (`benchmarks/train_throughput.py` prints what that costs).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

NORMS = ("Qwen2RMSNorm", "LlamaRMSNorm", "Qwen3RMSNorm", "Phi3RMSNorm")
CACHED = 2**17
"""Numbers normed at a time, half a megabyte in float32: what stays in a core's cache from one operation to the next."""


@contextmanager
def written_out_norms(model: nn.Module) -> Iterator[None]:
    """While open, the norms of that model compute this way."""
    norms: list[Any] = [module for module in model.modules() if type(module).__name__ in NORMS]
    for norm in norms:
        norm.forward = partial(_normed, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def rms_norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """weight · states / √(mean(states²) + epsilon), computed in float32.

    Args:
        states: [..., d]. weight: [d].

    Returns: [..., d] in the states' number format, differentiable once.
    Source: arXiv:1910.07467.
    """
    found: Tensor = _WrittenOut.apply(states, weight, epsilon)  # type: ignore[no-untyped-call]
    return found


def _normed(norm: Any, states: Tensor) -> Tensor:
    return rms_norm(states, norm.weight, norm.variance_epsilon)


class _WrittenOut(torch.autograd.Function):
    """Keeps the states as they came and one number a position."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        flat = states.reshape(-1, states.shape[-1])
        scale, out = torch.empty(len(flat), 1), torch.empty_like(flat)
        for rows in _few(flat):
            own = _exact(flat[rows])
            torch.rsqrt(own.square().mean(dim=1, keepdim=True).add_(epsilon), out=scale[rows])
            out[rows] = own.mul_(scale[rows])
        ctx.save_for_backward(states, weight, scale)
        return out.mul_(weight).view_as(states)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, None]:
        """With x̂ = x · s:  ∂w = Σ g x̂  and  ∂x = s (w g - x̂ · mean(w g x̂))."""
        states, weight, scale = ctx.saved_tensors
        flat, behind = states.reshape(-1, states.shape[-1]), outer[0].reshape(-1, states.shape[-1])
        to_states, to_weight, factor = torch.empty_like(flat), torch.zeros(len(weight)), weight.float()
        for rows in _few(flat):
            normed, own = _exact(flat[rows]).mul_(scale[rows]), _exact(behind[rows])
            along = own * normed
            to_weight += along.sum(dim=0)
            share = torch.mv(along, factor).div_(len(weight)).unsqueeze(1)
            to_states[rows] = own.mul_(factor).addcmul_(normed, share, value=-1).mul_(scale[rows])
        return to_states.view_as(states), to_weight.to(weight.dtype), None


def _exact(rows: Tensor) -> Tensor:
    """A copy in float32, to be changed in place."""
    return rows.to(torch.float32, copy=True)


def _few(flat: Tensor) -> Iterator[slice]:
    """Neighbouring rows, `CACHED` numbers at a time."""
    rows = max(1, CACHED // flat.shape[1])
    return (slice(first, first + rows) for first in range(0, len(flat), rows))
