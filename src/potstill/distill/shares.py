"""How much each loss pulls: its share of the gradient.

In:  the weighted losses of one micro-batch, the weights that train.
Out: a share for each, which add up to 1.
Does not know: what the losses are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def gradient_shares(losses: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> dict[str, float]:
    """Norm of each loss's gradient by the trainable weights, divided by the sum of these norms.

    A backward pass for every loss: not free. The graph is kept for the step's own.

    Args:
        losses: weighted scalars. parameters: those that train.

    Returns: name → share, 0 where a loss has no gradient; all 0 where none has.
    """
    norms = {name: _norm(loss, parameters) for name, loss in losses.items()}
    total = sum(norms.values())
    return {name: norm / total if total else 0.0 for name, norm in norms.items()}


def _norm(loss: Tensor, parameters: Sequence[nn.Parameter]) -> float:
    if not loss.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    squares = [float(gradient.float().square().sum()) for gradient in gradients if gradient is not None]
    return math.sqrt(sum(squares))
