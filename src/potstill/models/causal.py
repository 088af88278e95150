"""Causal attention whose gradient is made of plain matrix products.

In:  queries, keys and values of whole sequences, on a CPU.
Out: the same attention as PyTorch's fused kernel gives, and its gradient.
Does not know: models beyond the name they ask for attention by, padding, losses.

PyTorch's fused kernel for CPUs is quick forwards, and slow backwards in bfloat16 (`benchmarks/train_throughput.py`
prints both). Padding on the right needs no mask: no token looks ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, PretrainedConfig

NAME = "causal_products"
QUERIES = 256
"""Queries whose scores exist at a time, for each key-value head: later keys than theirs are never multiplied."""


@contextmanager
def causal_products(config: PretrainedConfig, tokens: int) -> Iterator[None]:
    """While open, a model of that configuration that would use the fused kernel attends this way.

    It stays as it is where sequences of so many tokens outgrow a sliding window, or where another way was chosen.
    """
    before = config._attn_implementation
    if before == "sdpa" and tokens <= (getattr(config, "sliding_window", None) or tokens):
        config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """softmax(Q Kᵀ · scale) V over the tokens so far.

    Args:
        query: [B, H, T, d]. key, value: [B, G, T, d]; H a multiple of G: neighbouring query heads share one.

    Returns: [B, H, T, d], differentiable once.
    """
    found: Tensor = _CausalProducts.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
    return found


class _CausalProducts(torch.autograd.Function):
    """Forward: the fused kernel. Backward: the scores are computed again, which spares keeping them."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scale = scale
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
        )

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value = ctx.saved_tensors
        groups, tokens = key.shape[1:3]
        heads = query.shape[1] // groups
        ahead = torch.full((tokens, tokens), float("-inf"), dtype=query.dtype).triu(1)
        to_query, to_key, to_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for one in range(len(query)):
            for group in range(groups):
                own = slice(group * heads, (group + 1) * heads)
                for first in range(0, tokens, QUERIES):
                    seen = min(first + QUERIES, tokens)
                    few = (one, own, slice(first, seen))
                    known = (one, group, slice(0, seen))
                    found = _gradients(
                        query[few] * ctx.scale, key[known], value[known], outer[0][few], ahead[first:seen, :seen]
                    )
                    to_query[few] = found[0] * ctx.scale
                    to_key[known] += found[1]
                    to_value[known] += found[2]
        return to_query, to_key, to_value, None


def _gradients(query: Tensor, key: Tensor, value: Tensor, outer: Tensor, ahead: Tensor) -> tuple[Tensor, ...]:
    """Of some heads' queries [h, n, d], scaled already, that share keys and values [T, d]; for those too.

    Source: FlashAttention, arXiv:2205.14135, appendix B.2, without its tiles over keys.
    """
    shape = (*query.shape[:2], len(key))
    flat, behind = query.flatten(0, 1), outer.flatten(0, 1)
    looks = (flat @ key.T).view(shape).add_(ahead).softmax(dim=-1)
    to_looks = (behind @ value.T).view(shape)
    to_scores = torch._softmax_backward_data(to_looks, looks, -1, looks.dtype).flatten(0, 1)
    return (to_scores @ key).view_as(query), to_scores.T @ flat, looks.flatten(0, 1).T @ behind


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """As Transformers asks for it: [B, H, T, d] in, [B, T, H, d] out."""
    return causal_attention(query, key, value, scaling).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attend)
