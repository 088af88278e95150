"""Which directions of the residual stream the student keeps.

In:  the base's stream over a calibration set.
Out: a `Basis`: narrows streams and weights from width D to d.
Does not know: layers, heads, neurons, recipes.

Every weight either reads the stream (behind a norm) or writes into it, and d orthonormal directions Q [D, d] narrow
both: a reader W becomes W·Q, a writer W becomes Qᵀ·W, the embeddings E become E·Q. Crop: Q selects dimensions, norms
are cropped too. Rotation (SliceGPT, arXiv:2401.15024): Q holds the eigenvectors of largest variance; a norm's weights
do not commute with it, so they are folded into its readers first. An RMS norm divides by the root mean square over d
instead of D numbers: its weight makes up for the mean ratio of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from potstill.models.anatomy import decoder_layers
from potstill.progress import Task
from potstill.prune.walk import Batch, run_layer


@dataclass(frozen=True)
class Basis:
    """d of D directions.

    Args:
        directions: [D, d] float32, orthonormal columns.
        kept: [d] numbers of the dimensions that `directions` selects, ascending; None for a rotation.
    """

    directions: Tensor
    kept: Tensor | None

    @classmethod
    def of_dimensions(cls, kept: Tensor, width: int) -> Basis:
        """The basis that keeps some dimensions as they are."""
        return cls(torch.eye(width)[:, kept], kept)

    @property
    def is_whole(self) -> bool:
        """Nothing is cut and nothing is turned."""
        return self.kept is not None and len(self.kept) == len(self.directions)

    def narrow(self, rows: Tensor) -> Tensor:
        """[…, D] → […, d]: a stream, embeddings, or a reader without its norm."""
        if self.is_whole:
            return rows
        if self.kept is not None:
            return rows[..., self.kept]
        return (rows.float() @ self.directions).to(rows.dtype)

    def reader(self, weight: Tensor, norm: Tensor) -> Tensor:
        """[R, D] → [R, d] for a weight that reads the stream behind a norm of weights [D]."""
        return self.narrow(weight if self.kept is not None else weight.float() * norm.float())

    def writer(self, weight: Tensor) -> Tensor:
        """[D, F] → [d, F], or a bias [D] → [d]."""
        return self.narrow(weight.T).T if weight.ndim == 2 else self.narrow(weight)

    def norm(self, weight: Tensor, ratio: float) -> Tensor:
        """[D] → [d] weights of a norm whose readers went through `reader`."""
        return ratio * (weight[self.kept] if self.kept is not None else torch.ones(self.directions.shape[1]))

    def tied_norm(self, weight: Tensor, ratio: float) -> Tensor:
        """[D] → [d] weights of the norm before a head that is the embedding and so cannot take them in.

        Of a rotated diagonal only the diagonal can be had: qᵀ·Γ·q for each direction q.
        """
        if self.kept is not None:
            return self.norm(weight, ratio)
        return ratio * (self.directions.square() * weight.float()[:, None]).sum(dim=0)

    def rms_ratio(self, rows: Tensor) -> float:
        """Mean over [n, D] rows of RMS(narrowed) / RMS(row)."""
        if self.is_whole:
            return 1.0
        return rms_ratio(rows, self.narrow(rows))


def rms_ratio(rows: Tensor, others: Tensor) -> float:
    """Mean over [n, D] rows of RMS(their other [n, d]) / RMS(row)."""
    before, after = (part.float().square().mean(dim=-1) for part in (rows, others))
    return float((after / before).sqrt().mean())


@torch.no_grad()
def measure_stream(model: PreTrainedModel, batches: Sequence[Batch], task: Task) -> Tensor:
    """[D, D] second moment of the stream, each position's RMS brought to 1, summed over all layers.

    First positions count here: what makes them hundreds of times larger than others serves attention as its sink, and
    a student that loses those few directions loses the sink. `task` advances by layers.
    """
    width = model.config.hidden_size
    moment = torch.zeros(width, width)
    for layer in [*decoder_layers(model), None]:
        for batch in batches:
            wanted = batch.counted.clone()
            wanted[:, 0] = True
            rows = batch.states[wanted].float()
            rows = rows * rows.square().mean(dim=-1, keepdim=True).clamp_min(1e-12).rsqrt()
            moment.addmm_(rows.T, rows)
            if layer is not None:
                batch.states = run_layer(layer, batch)
        task.advance(layer is not None)
    return moment


def choose_basis(moment: Tensor, hidden: int, rotate: bool) -> Basis:
    """The `hidden` directions that carry most of a stream of this second moment [D, D]; ties to the lower number."""
    if rotate:
        vectors = torch.linalg.eigh(moment.double()).eigenvectors
        return Basis(vectors.flip(1)[:, :hidden].float().contiguous(), None)
    order = torch.sort(moment.diagonal(), descending=True, stable=True).indices
    return Basis.of_dimensions(order[:hidden].sort().values, len(moment))
