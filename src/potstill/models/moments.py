"""How the inputs of a model's matrices spread: their second moments, measured while it reads.

In:  a Transformers causal model, token ids of text it will meet.
Out: for each matrix the mean of x xᵀ over what it reads, once for all matrices that read the same.
Does not know: what the moments are used for.

An error e in a row of a matrix changes its output by e · x, in the mean square by e M eᵀ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from potstill.models.architecture import HEAD
from potstill.models.examples import batches_by_length, pad
from potstill.models.inputs import listening


@dataclass(frozen=True)
class ByInputs(Mapping[str, Tensor]):
    """Name of a matrix [out, in] → [in, in], what is known of its inputs.

    Args:
        known: by the name of the first matrix that reads those inputs. first: name of each matrix → that name.
    """

    known: Mapping[str, Tensor]
    first: Mapping[str, str]

    def __getitem__(self, name: str) -> Tensor:
        """What is known of a matrix's inputs."""
        return self.known[self.first[name]]

    def __iter__(self) -> Iterator[str]:
        """Names of matrices."""
        return iter(self.first)

    def __len__(self) -> int:
        """Matrices."""
        return len(self.first)


@torch.inference_mode()
def second_moments(
    model: PreTrainedModel,
    sequences: Sequence[NDArray[np.int64]],
    batch_tokens: int,
    wanted: set[str],
    read: Callable[[Tensor], Tensor],
    advance: Callable[[float], None],
) -> ByInputs:
    """Read the sequences and average x xᵀ.

    Args:
        sequences: [T] ids each. The first position is left out: what a decoder computes there is hundreds of times
            larger than anywhere else, whatever the text. batch_tokens: positions read at once, padding included.
        wanted: names of matrices; HEAD for that of what the head reads.
        read: the model's states [B, T, d] behind its last norm, from ids [B, T]. advance: told the share just read.

    Returns: float32; in the order in which the matrices are met.
    """
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

    model.eval()
    positions = 0
    with listening(model, add):
        for batch in batches_by_length([len(ids) for ids in sequences], batch_tokens):
            ids = torch.from_numpy(pad([sequences[index] for index in batch]))
            places, lengths = torch.arange(ids.shape[1]), torch.tensor([len(sequences[index]) for index in batch])
            real = ((places > 0) & (places < lengths[:, None])).reshape(-1)
            add(HEAD, read(ids))
            positions += int(real.sum())
            advance(len(batch) / len(sequences))
    return ByInputs({name: total.div_(max(positions, 1)) for name, total in sums.items()}, first)
