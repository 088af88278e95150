"""A model's residual stream over a calibration set, advanced one layer at a time.

In:  a Transformers model and batches of token ids.
Out: the stream after any layer, and what went into chosen modules on the way.
Does not know: which layers are kept, how anything is healed.

Walking layer by layer needs memory for two streams instead of all layers' states: 60,000 tokens of width 896 are
108 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.models.anatomy import Layer, body


@dataclass
class Batch:
    """One batch under way.

    Args:
        states: [B, T, D] the stream before the next layer.
        counted: [B, T] bool; False on padding and on first positions, whose activations are hundreds of times larger.
        positions: the rotary embedding's cosines and sines.
    """

    states: Tensor
    counted: Tensor
    positions: tuple[Tensor, Tensor]


def start_walk(model: PreTrainedModel, ids: Sequence[Tensor], lengths: Sequence[Tensor]) -> list[Batch]:
    """Embed the batches: [B, T] ids, padded on the right, with [B] lengths."""
    batches = []
    for tokens, ends in zip(ids, lengths, strict=True):
        states = body(model).embed_tokens(tokens)
        places = torch.arange(tokens.shape[1])[None]
        counted = (places < ends[:, None]) & (places > 0)
        batches.append(Batch(states, counted, body(model).rotary_emb(states, places)))
    return batches


def run_layer(layer: Layer, batch: Batch) -> Tensor:
    """The stream [B, T, D] after `layer`; causal, without a padding mask (padding stands on the right)."""
    output = layer(batch.states, attention_mask=None, position_embeddings=batch.positions)
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


@contextmanager
def inputs_of(*modules: nn.Module) -> Iterator[list[Tensor]]:
    """Within the context, the list's i-th element is the last input of the i-th module."""
    caught: list[Tensor] = [torch.empty(0)] * len(modules)

    def catch(place: int) -> object:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            caught[place] = arguments[0]

        return hook

    handles = [module.register_forward_pre_hook(catch(place)) for place, module in enumerate(modules)]  # type: ignore[arg-type]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()
