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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from potstill.distill.working import read_in
from potstill.models.anatomy import body
from potstill.models.examples import batches_by_length, pad
from potstill.models.inputs import listening
from potstill.problem import Problem
from potstill.progress import Task

READING = 0.9
"""Of the time, roughly; the rest goes into the inverses."""


@dataclass(frozen=True)
class Curvature(Mapping[str, Tensor]):
    """Name of a matrix [out, in] → [in, in], the inverse of its inputs' second moments.

    Args:
        inverses: by the name of the first matrix that reads those inputs. first: name of each matrix → that name.
    """

    inverses: Mapping[str, Tensor]
    first: Mapping[str, str]

    def __getitem__(self, name: str) -> Tensor:
        """The inverse for a matrix."""
        return self.inverses[self.first[name]]

    def __iter__(self) -> Iterator[str]:
        """Names of matrices."""
        return iter(self.first)

    def __len__(self) -> int:
        """Matrices."""
        return len(self.first)

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""
        temporary = path.with_name(path.name + ".tmp")
        save_file(dict(self.inverses), temporary, metadata={"first": json.dumps(dict(self.first))})
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Curvature:
        """`save`'s file. Raises: Problem where it is damaged."""
        try:
            with safe_open(path, framework="pt") as file:
                names: list[str] = list(file.keys())
                return cls({name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["first"]))
        except (OSError, SafetensorError) as error:
            raise Problem(f"{path}: damaged ({error})", "Delete its folder: the training starts again.") from None


def evenly(sequences: Sequence[NDArray[np.int64]], tokens: int) -> list[NDArray[np.int64]]:
    """Every so manieth sequence of two tokens or more, of about `tokens` together."""
    usable = [ids for ids in sequences if len(ids) > 1]
    return usable[:: max(1, sum(map(len, usable)) // tokens)]


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
        sequences: [T] ids each. The first position is left out: what a decoder computes there is hundreds of times
            larger than anywhere else, whatever the text. batch_tokens: positions read at once, padding included.
        dtype: of the products while it reads, and of the result. task: advances to 1.

    Source: the inputs' side of K-FAC, arXiv:1503.05671, which alone does most of its work: FOOF, arXiv:2201.12250.
    """
    wanted = {name for name, weight in student.named_parameters() if weight.requires_grad}
    moments, first = _second_moments(student, sequences, batch_tokens, wanted, dtype, task)
    inverses, share = {}, (1 - READING) / max(len(moments), 1)
    for name in list(moments):
        inverses[name] = _inverse(moments.pop(name), damping).to(dtype)
        task.advance(share)
    return Curvature(inverses, first)


@torch.inference_mode()
def _second_moments(
    student: PreTrainedModel,
    sequences: Sequence[NDArray[np.int64]],
    batch_tokens: int,
    wanted: set[str],
    dtype: torch.dtype,
    task: Task,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Sums of x xᵀ by the first matrix that reads x, and whose inputs each matrix shares."""
    sums: dict[str, Tensor] = {}
    first: dict[str, str] = {}
    real, latest = torch.empty(0, dtype=torch.bool), ("", torch.empty(0))

    def add(name: str, inputs: Tensor) -> None:
        nonlocal latest
        if name not in wanted:
            return
        if inputs is latest[1]:  # queries, keys and values read the same, and so do gate and up
            first[name] = latest[0]
            return
        first[name], latest = name, (name, inputs)
        rows = inputs.reshape(-1, inputs.shape[-1])[real].float()
        total = sums.setdefault(name, torch.zeros(rows.shape[1], rows.shape[1]))
        total.addmm_(rows.T, rows)

    student.eval()
    with listening(student, add):
        for batch in batches_by_length([len(ids) for ids in sequences], batch_tokens):
            ids = torch.from_numpy(pad([sequences[index] for index in batch]))
            places, lengths = torch.arange(ids.shape[1]), torch.tensor([len(sequences[index]) for index in batch])
            real = ((places > 0) & (places < lengths[:, None])).reshape(-1)
            read_in(dtype, body(student), ids)
            task.advance(READING * len(batch) / len(sequences))
    return sums, first


def _inverse(moments: Tensor, damping: float) -> Tensor:
    scaled = moments / moments.diagonal().mean().clamp_min(1e-30)
    factor = torch.linalg.cholesky(scaled + damping * torch.eye(len(scaled)))
    return torch.cholesky_inverse(factor).contiguous()
