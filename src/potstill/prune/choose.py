"""Which layers and which neurons stay.

In:  a teacher's streams, activations and weights.
Out: layer numbers; neuron numbers.
Does not know: shapes wanted elsewhere, healing, files.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from potstill.models.anatomy import decoder_layers
from potstill.progress import Task
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


def cut_feed_forward(mlp: nn.Module, neurons: Tensor) -> dict[str, Tensor]:
    """State of a gated feed-forward block that keeps some neurons; fused `gate_up_proj` (Phi-3) or apart."""
    state = mlp.state_dict()
    width = state["down_proj.weight"].shape[1]
    fused = torch.cat([neurons, neurons + width])
    rows = {"gate_proj.weight": neurons, "up_proj.weight": neurons, "gate_up_proj.weight": fused}
    cut = {name: state[name][index] for name, index in rows.items() if name in state}
    return cut | {"down_proj.weight": state["down_proj.weight"][:, neurons]}
