"""One layer becomes smaller: heads, neurons and directions of the stream are taken out of its weights.

In:  a layer of the base, what stays of it.
Out: the state of the student's layer.
Does not know: how any of it was chosen, healing, whole models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from potstill.models.anatomy import Layer
from potstill.prune.basis import Basis
from potstill.prune.heads import HeadShape

ATTENTION_NORM, FEED_FORWARD_NORM = "input_layernorm", "post_attention_layernorm"


@dataclass(frozen=True)
class Kept:
    """What stays of a layer.

    Args:
        neurons: [ffn] ascending. queries: [h·w] rows of the query projection, head by head; keys: [g·w] those of the
            key projection. columns: [h·w] columns of the output projection; values: [g·w] rows of the value
            projection.
        query_scale: what queries are multiplied by: attention divides by the root of the head's width, whatever
            that is.
        ratios: RMS of the narrowed stream over that of the whole one, before either norm.
    """

    neurons: Tensor
    queries: Tensor
    keys: Tensor
    values: Tensor
    columns: Tensor
    query_scale: float
    ratios: dict[str, float]


def cut_layer(layer: Layer, kept: Kept, base: HeadShape, basis: Basis) -> dict[str, Tensor]:
    """The student's state of this layer; projections fused (Phi-3) or apart, with or without biases."""
    rows, columns = _rows(layer, kept, base), {"o_proj": kept.columns, "down_proj": kept.neurons}
    state = {}
    for name, value in layer.state_dict().items():
        module, kind = name.split(".")[-2:]
        if module in rows:
            norm = ATTENTION_NORM if name.startswith("self_attn") else FEED_FORWARD_NORM
            cut = value[rows[module]]
            cut = basis.reader(cut, getattr(layer, norm).weight) if kind == "weight" else cut
            cut = _scaled(cut, module, kept)
        elif module in columns:
            cut = basis.writer(value[:, columns[module]] if kind == "weight" else value)
        elif module in kept.ratios:
            cut = basis.norm(value, kept.ratios[module])
        else:  # a norm within a head (Qwen3), whose width stays
            cut = value
        state[name] = cut.to(value.dtype).contiguous()
    return state


def _rows(layer: Layer, kept: Kept, base: HeadShape) -> dict[str, Tensor]:
    """Rows that stay of every projection that reads the stream."""
    queries, groups = base.heads * base.width, base.groups * base.width
    ffn = layer.mlp.down_proj.in_features
    return {
        "q_proj": kept.queries,
        "k_proj": kept.keys,
        "v_proj": kept.values,
        "qkv_proj": torch.cat([kept.queries, queries + kept.keys, queries + groups + kept.values]),
        "gate_proj": kept.neurons,
        "up_proj": kept.neurons,
        "gate_up_proj": torch.cat([kept.neurons, ffn + kept.neurons]),
    }


def _scaled(rows: Tensor, module: str, kept: Kept) -> Tensor:
    if kept.query_scale == 1.0 or module not in ("q_proj", "qkv_proj"):
        return rows
    scales = torch.ones(len(rows), *[1] * (rows.ndim - 1), dtype=torch.float32)
    scales[: len(kept.queries)] = kept.query_scale
    return rows.float() * scales
