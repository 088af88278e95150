"""The student as it is now, writing.

In:  a student in training, its tokenizer, a number format.
Out: replies.
Does not know: what is asked, what the replies are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from potstill.distill.trained import plain_copy
from potstill.models.bulk import BulkWriter
from potstill.models.engine import Messages, Reply, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Request = tuple[Messages, Sampling]


class Writer(Protocol):
    """What a companion needs: the student's own words, by its weights of this moment."""

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        """A reply to each request, in their order. The requests differ in question and seed alone."""


@dataclass(frozen=True)
class CurrentWriter:
    """Writes with the student's current weights.

    All requests are written side by side and depend on nothing but weights, questions and seeds, so a resumed training
    writes the same. llama.cpp would first need the weights as a file, which takes longer than the writing.

    Args:
        student: the model in training, adapters included; it isn't changed.
        tokenizer: its tokenizer. dtype: of the weights it writes with.
    """

    student: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        """A reply to each request, in their order."""
        # A processor has no use for a GPU's float16.
        dtype = torch.float32 if self.dtype == torch.float16 else self.dtype
        copy = _in_dtype(plain_copy(self.student), dtype)
        nn.Module.to(copy, "cpu")  # where `BulkWriter` writes
        writer = BulkWriter(copy, self.tokenizer)
        seeds = [sampling.seed for _, sampling in requests]
        replies = dict(writer.batch([messages for messages, _ in requests], requests[0][1], seeds))
        return [replies[place] for place in range(len(requests))]


def _in_dtype(copy: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """New weights for a copy. `copy.to(dtype)` would change, in place, those that it shares with the student."""
    converted: dict[int, nn.Parameter] = {}
    for module in copy.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                fresh = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
                module._parameters[name] = converted.setdefault(id(weight), fresh)
    return copy
