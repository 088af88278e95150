"""AdamW that knows how the inputs of a matrix spread.

In:  parameter groups as AdamW takes them; for some matrices the inverse of their inputs' second moments.
Out: weights that have moved.
Does not know: models, names, what the moments were measured on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 128
"""Moved at a time: half a megabyte of a weight and half as much of its mean stay in a core's cache meanwhile."""


class NaturalAdamW(torch.optim.AdamW):
    """AdamW; a matrix with an inverse P [in, in] moves along the mean of its gradients G P, all rows by equal size.

    Its second moment is one number a row instead of one a weight, for P has evened out the columns, and its mean is
    kept in P's number format: in bfloat16 it takes a quarter of AdamW's memory. Turning the inputs (x → Qx with
    orthogonal Q) turns the path of the weights along, which is not true of AdamW.

    Args:
        groups: as AdamW's. inverses: matrix → P, on its device; the product is taken in P's number format.

    Source: FOOF, arXiv:2201.12250; Adam's step size a row instead of a weight, as in Adam-mini, arXiv:2406.16793.
    """

    def __init__(self, groups: Any, inverses: Mapping[nn.Parameter, Tensor], **options: Any) -> None:
        super().__init__(groups, **options)
        self.inverses = dict(inverses)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move all weights that have a gradient; those of matrices with an inverse are gone afterwards."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight in self.inverses and weight.grad is not None:
                    self._move(weight, weight.grad, group)
                    weight.grad = None
        loss: float | None = super().step(closure)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave; PyTorch would bring all of it into the number format of the weights."""
        super().load_state_dict(state_dict)
        for weight, inverse in self.inverses.items():
            if state := self.state.get(weight):
                state["exp_avg"] = state["exp_avg"].to(inverse.dtype)

    def _move(self, weight: nn.Parameter, gradient: Tensor, group: Mapping[str, Any]) -> None:
        state, (beta1, beta2), inverse = self.state[weight], group["betas"], self.inverses[weight]
        if not state:
            state["step"] = torch.zeros((), device=weight.device)
            state["exp_avg"] = torch.zeros_like(weight, dtype=inverse.dtype)
            state["exp_avg_sq"] = torch.zeros_like(weight[:, :1])
        state["step"] += 1
        taken = float(state["step"])
        rate, kept = group["lr"] / (1 - beta1**taken), 1 - group["lr"] * group["weight_decay"]
        natural = gradient.to(inverse.dtype) @ inverse
        for first in range(0, len(weight), ROWS):
            rows = slice(first, first + ROWS)
            moved, mean, square = weight[rows], state["exp_avg"][rows], state["exp_avg_sq"][rows]
            own = natural[rows]
            mean.lerp_(own, 1 - beta1)
            square.lerp_(own.float().square_().mean(dim=1, keepdim=True), 1 - beta2)
            size = (square / (1 - beta2**taken)).sqrt_().add_(group["eps"])
            if kept != 1:
                moved.mul_(kept)
            moved.addcmul_(mean, -rate / size)
