"""Where a model looks: attention maps of chosen layers, caught while it reads.

In:  a model and the numbers of its layers.
Out: for each of them, the mean over heads of the last forward pass's attention.
Does not know: what is done with the maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from potstill.models.anatomy import decoder_layers


def use_eager_attention(model: PreTrainedModel) -> None:
    """Fused attention never makes the map that is wanted; from now on the whole model goes the plain way."""
    model.set_attn_implementation("eager")


@contextmanager
def attention_maps(model: PreTrainedModel, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """While open, each forward pass leaves its maps in what is yielded: layer (from 1) → [B, T, T], with gradient.

    Maps of other layers are freed at once: all of them would fill the memory. Needs `use_eager_attention`.
    """
    found: dict[int, Tensor] = {}
    hooks = [
        decoder_layers(model)[layer - 1].self_attn.register_forward_hook(partial(_keep, found, layer))
        for layer in layers
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _keep(found: dict[int, Tensor], layer: int, module: Any, arguments: Any, output: tuple[Tensor, Tensor]) -> None:
    found[layer] = output[1].mean(dim=1)
