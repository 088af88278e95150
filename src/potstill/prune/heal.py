"""Closed-form healing: each kept layer's down-projection is refitted to the stream it stands for.

In:  the student's own activations, the stream it should leave.
Out: a down-projection.
Does not know: how layers and neurons were chosen, files, gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from potstill.problem import Problem


class RidgeRegression:
    """Accumulates A and Y over batches; solves min ‖A·W − Y‖² + λ‖W − W₀‖².

    λ is `ridge` times the mean diagonal of AᵀA, so that it means the same for every layer and amount of text.
    Shrinking towards the weights as cut instead of towards 0 keeps what the teacher knew where the text is silent.

    Args:
        prior: W₀ as a down-projection, [D, F]. ridge: > 0.
    """

    def __init__(self, prior: Tensor, ridge: float) -> None:
        outputs, inputs = prior.shape
        self.prior = prior.detach().float()
        self.gram = torch.zeros(inputs, inputs)
        self.moment = torch.zeros(inputs, outputs)
        self.ridge = ridge

    def add(self, activations: Tensor, targets: Tensor) -> None:
        """Add n rows: activations [n, F], targets [n, D]; products are taken in float32."""
        activations = activations.float()
        self.gram.addmm_(activations.T, activations)
        self.moment.addmm_(activations.T, targets.float())

    def solve(self) -> Tensor:
        """W as a down-projection, [D, F]. Raises: Problem where the system cannot be solved."""
        strength = self.ridge * float(self.gram.diagonal().mean())
        system = self.gram + strength * torch.eye(len(self.gram))
        factor, failed = torch.linalg.cholesky_ex(system)
        if failed:
            raise Problem("healing failed: a layer's activations are degenerate", "Raise prune.ridge.")
        return torch.cholesky_solve(self.moment + strength * self.prior.T, factor).T.contiguous()
