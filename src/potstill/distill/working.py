"""The student's body at work in another number format than the one its weights are trained in.

In:  a body with float32 weights, token ids.
Out: its output; gradients arrive at the float32 weights, in the number format that these ask for.
Does not know: losses, optimisers, batches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel, TrainingArguments

from potstill.models.causal import causal_products
from potstill.models.norms import written_out_norms


def product_dtype(arguments: TrainingArguments) -> torch.dtype:
    """What the matrix products of a training are computed in."""
    if arguments.bf16:
        return torch.bfloat16
    return torch.float16 if arguments.fp16 else torch.float32


def read_in(dtype: torch.dtype, body: PreTrainedModel, ids: Tensor, **wanted: Any) -> Any:
    """One forward pass over whole sequences, padded on the right.

    In bfloat16 everything is rounded, as in a model that was loaded so: the weights once a pass, by a copy that the
    gradients flow back through (of the embedding, only the rows that are read). Autocast keeps in float32 what lies
    between the products: slower, and on a real student no nearer to float32's gradients. float16, which lacks the range
    for that, keeps it.

    Args:
        body: whatever of it is no floating-point number (packed weights) stays as it is. ids: [B, T].
        wanted: what else its forward takes.
    """
    if dtype == torch.bfloat16:
        table = body.get_input_embeddings()
        weights = {
            name: _Copy.apply(weight, dtype)  # type: ignore[no-untyped-call]
            for name, weight in body.named_parameters()
            if weight.is_floating_point() and weight is not getattr(table, "weight", None)
        }
        arguments = {"inputs_embeds": table(ids).to(dtype), "use_cache": False, **wanted}
        if ids.device.type != "cpu":
            return functional_call(body, weights, (), arguments)
        with causal_products(body.config, ids.shape[1]), written_out_norms(body):
            return functional_call(body, weights, (), arguments)
    with torch.autocast(ids.device.type, dtype, enabled=dtype != torch.float32):
        return body(input_ids=ids, use_cache=False, **wanted)


class _Copy(torch.autograd.Function):
    """`weight.to(dtype)`, whose gradient goes back as it is: autograd makes of it what `weight.grad_dtype` says."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return weight.to(dtype)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        return outer[0], None
