"""How the inputs of the student's matrices spread: measured once, before the training moves anything.

In:  the student as it starts, sequences that it will learn from.
Out: for each matrix the inverse of its inputs' second moments; one file of them.
Does not know: optimisers, losses, run folders.

What goes into a decoder's matrices lies mostly along a few directions, and there the loss is steep. A step of one size
for every weight is too long along these and too short along all others: a healed student loses at once a part of what
healing had won.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from potstill.distill.working import read_in
from potstill.models.anatomy import body
from potstill.models.architecture import HEAD
from potstill.models.checkpoint import write_tensors
from potstill.models.moments import ByInputs, second_moments
from potstill.problem import Problem
from potstill.progress import Task

READING = 0.9
"""Of the time, roughly; the rest goes into the inverses."""


@dataclass(frozen=True)
class Curvature(ByInputs):
    """For each matrix the inverse of its inputs' second moments."""

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""
        write_tensors(path, self.known, {"first": json.dumps(dict(self.first))})

    @classmethod
    def load(cls, path: Path) -> Curvature:
        """`save`'s file. Raises: Problem where it is damaged."""
        try:
            with safe_open(path, framework="pt") as file:
                names: list[str] = list(file.keys())
                return cls({name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["first"]))
        except (OSError, SafetensorError) as error:
            raise Problem(f"{path}: damaged ({error})", "Delete its folder: the training starts again.") from None


def measure_curvature(
    student: PreTrainedModel,
    sequences: Sequence[NDArray[np.int64]],
    batch_tokens: int,
    damping: float,
    dtype: torch.dtype,
    task: Task,
) -> Curvature:
    """(M + damping · I)⁻¹ of every matrix that trains; M: its inputs' second moments, the mean diagonal made 1.

    Args:
        sequences, batch_tokens: as `second_moments` takes them.
        dtype: of the products while it reads, and of the result. task: advances to 1.

    Source: the inputs' side of K-FAC, arXiv:1503.05671, which alone does most of its work: FOOF, arXiv:2201.12250.
    """
    wanted = {name for name, weight in student.named_parameters() if weight.requires_grad} - {HEAD}
    found = second_moments(
        student,
        sequences,
        batch_tokens,
        wanted,
        lambda ids: read_in(dtype, body(student), ids).last_hidden_state,
        lambda share: task.advance(READING * share),
    )
    moments, first, inverses = dict(found.known), found.first, {}
    del found  # each of its matrices is freed once its inverse is known
    for name in list(moments):
        inverses[name] = _inverse(moments.pop(name), damping).to(dtype)
        task.advance((1 - READING) / (len(inverses) + len(moments)))
    return Curvature(inverses, first)


def _inverse(moments: Tensor, damping: float) -> Tensor:
    scaled = moments / moments.diagonal().mean().clamp_min(1e-30)
    factor = torch.linalg.cholesky(scaled + damping * torch.eye(len(scaled)))
    return torch.cholesky_inverse(factor).contiguous()
