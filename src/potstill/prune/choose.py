"""Which layers, heads and neurons stay.

In:  a teacher's streams, activations and weights.
Out: layer numbers; head numbers; neuron numbers.
Does not know: shapes wanted elsewhere, healing, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from potstill.models.anatomy import decoder_layers
from potstill.progress import Task
from potstill.prune.heads import HeadShape
from potstill.prune.walk import Batch, run_layer


@torch.no_grad()
def measure_influence(model: PreTrainedModel, batches: Sequence[Batch], task: Task) -> list[float]:
    """Block influence of every layer: 1 − mean cos(stream before, stream after), in [0, 2]; `task` counts layers.

    Source: ShortGPT, arXiv:2403.03853.
    """
    streams = [batch.states for batch in batches]
    influence = []
    for layer in decoder_layers(model):
        total, count = 0.0, 0
        for place, batch in enumerate(batches):
            after = run_layer(layer, Batch(streams[place], batch.counted, batch.positions))
            cosine = functional.cosine_similarity(streams[place].float(), after.float(), dim=-1)
            total += float((1 - cosine)[batch.counted].sum())
            count += int(batch.counted.sum())
            streams[place] = after
        influence.append(total / count)
        task.advance()
    return influence


def keep_influential(influence: Sequence[float], layers: int) -> list[int]:
    """The `layers` layers of largest influence, ascending; layer 0 always stays, it reads the embeddings."""
    others = sorted(range(1, len(influence)), key=lambda layer: -influence[layer])
    return sorted([0, *others[: layers - 1]])


def keep_evenly(total: int, layers: int) -> list[int]:
    """`layers` of `total` layers at even distances, the first and (from two on) the last among them."""
    if layers == 1:
        return [0]
    return [round(place * (total - 1) / (layers - 1)) for place in range(layers)]


def score_neurons(squares: Tensor, count: int, down: Tensor) -> Tensor:
    """How much each feed-forward neuron writes into the stream: RMS activation × norm of its output row.

    Args:
        squares: [F] sum of squared activations; count: positions summed over.
        down: [D, F] the down-projection.
    """
    norms: Tensor = torch.linalg.vector_norm(down.float(), dim=0)
    return (squares / count).sqrt() * norms


def keep_neurons(scores: Tensor, ffn: int) -> Tensor:
    """[ffn] numbers of the best neurons, ascending; ties fall to the lower number."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:ffn].sort().values


@dataclass(frozen=True)
class HeadChoice:
    """Attention that stays, by number: columns of the output projection are rows of the heads, width after width.

    Args:
        heads: [h] ascending; groups: [g] ascending, the key-value heads they read; values: [g, w] the numbers of each
            of these groups' values that stay.
    """

    heads: Tensor
    groups: Tensor
    values: Tensor


def keep_heads(columns: Tensor, base: HeadShape, wanted: HeadShape) -> HeadChoice:
    """The groups that write most, in each of them the heads that write most, in these the numbers that do.

    Args:
        columns: [H·W] how much each column of the output projection writes (`score_neurons` of it).
    """
    share = base.heads // base.groups
    written = columns.square().view(base.groups, share, base.width)
    heads = written.sum(dim=2)
    of_group = wanted.heads // wanted.groups
    best = torch.sort(heads, dim=1, descending=True, stable=True)
    groups = keep_neurons(best.values[:, :of_group].sum(dim=1), wanted.groups)
    inside = best.indices[groups, :of_group].sort(dim=1).values
    numbers = [
        keep_neurons(written[group, chosen].sum(dim=0), wanted.width)
        for group, chosen in zip(groups, inside, strict=True)
    ]
    return HeadChoice((groups[:, None] * share + inside).flatten(), groups, torch.stack(numbers))
