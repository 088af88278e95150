"""The parts of a decoder that every family here names alike, for code that is typed.

In:  a Transformers causal model of the Qwen2, Llama, Qwen3 or Phi-3 family.
Out: its body, its layers, its head.
Does not know: what is done with them. Transformers' modules are dynamic: only here are they `Any`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

Layer = Any
"""A decoder layer: input_layernorm, self_attn, post_attention_layernorm, mlp with a down_proj."""


def body(model: PreTrainedModel) -> Any:
    """The model without its head: embed_tokens, layers, norm, rotary_emb."""
    return model.base_model


def decoder_layers(model: PreTrainedModel) -> list[Layer]:
    """The layers, first to last."""
    return list(body(model).layers)


def head_weight(model: PreTrainedModel) -> Tensor:
    """[V, d] the output head; the embedding itself where they are tied."""
    head: Any = model.get_output_embeddings()
    weight: Tensor = head.weight
    return weight
