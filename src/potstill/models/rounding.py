"""Rounding whose errors make up for each other.

In:  rows of a matrix, the second moments of its inputs, the name of a GGML type.
Out: the rows in that type, as near as may be in what the matrix computes, not in its numbers.
Does not know: models, files, what the moments were measured on.

Blocks of columns are rounded one after the other by the C code that llama.cpp's own tools use. The error of each is
handed on: columns that are still to be rounded move so that, for inputs that go together as these do, they take back
as much of it as they can.
"""

from __future__ import annotations

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray
from torch import Tensor

from potstill.models.quantise import block_of, quantise_rows

DAMPING = 0.05
"""Of the mean diagonal, added to the moments: what some thousand tokens never do together, others may do."""


def round_rows(rows: NDArray[np.float32], type_name: str, moments: Tensor | None = None) -> NDArray[np.uint8]:
    """Convert rows so that E M Eᵀ is small, E being their error and M the moments.

    Args:
        rows: [R, d] or [d] float32, all finite. type_name: one of `quantise.QUANTISATIONS`; d must divide by its block.
        moments: [d, d] the mean of x xᵀ; None: every column counts the same, and nothing is handed on.

    Returns: [R, bytes a row] (or [bytes]), uint8. Raises: Problem as `quantise_rows`.
    Source: GPTQ, arXiv:2210.17323, by blocks instead of columns, those that matter most first.
    """
    block = block_of(type_name)[0]
    if moments is None or rows.ndim < 2 or block == 1:
        return quantise_rows(rows, type_name)
    order = _order(moments, block)
    columns = (order[:, None] * block + np.arange(block)).ravel()
    factor = _factor(moments[columns][:, columns])
    left = torch.from_numpy(rows[:, columns])
    result = np.empty((len(rows), len(order), block_of(type_name)[1]), dtype=np.uint8)
    for place, number in enumerate(order):
        here, behind = slice(place * block, (place + 1) * block), slice((place + 1) * block, None)
        own = factor[here, here]
        taken = left[:, here].numpy()
        result[:, number] = quantise_rows(taken, type_name, _importance(own))
        made = dequantize(result[:, number], GGMLQuantizationType[type_name])
        error = torch.from_numpy(taken - made)
        left[:, behind] -= torch.linalg.solve_triangular(own, error, upper=True, left=False) @ factor[here, behind]
    return result.reshape(len(rows), -1)


def _order(moments: Tensor, block: int) -> NDArray[np.intp]:
    """Numbers of the blocks: whose inputs are largest comes first, while there is most to hand its error on to."""
    sizes = moments.diagonal().view(-1, block).sum(dim=1)
    return np.argsort(-sizes.numpy(), kind="stable")


def _factor(moments: Tensor) -> Tensor:
    """Upper triangular U with Uᵀ U = (M + damping)⁻¹."""
    exact = moments.double()
    exact.diagonal().add_(DAMPING * exact.diagonal().mean().clamp_min(1e-30))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(exact))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


def _importance(own: Tensor) -> NDArray[np.float32]:
    """How much an error of each column of a block costs after all that the columns behind it take back."""
    inverse = torch.linalg.solve_triangular(own, torch.eye(len(own)), upper=True)
    costs = inverse.square().sum(dim=1)
    found: NDArray[np.float32] = (costs / costs.mean()).numpy()
    return found
