"""The next token of many texts at once, drawn as llama.cpp draws it.

In:  hidden states after the last norm, the head, what was written last, a number in [0, 1) for each text.
Out: a token for each.
Does not know: models, caches, texts, when a text is over.

The order is llama.cpp's: repeat penalty, top-k, top-p, temperature. Only the likeliest candidates are looked at: a
full-vocabulary sort for every token is what makes writing in PyTorch slow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from potstill.models.engine import PENALTY_WINDOW, Sampling


def draw(states: Tensor, head: Tensor, recent: Tensor, sampling: Sampling, numbers: Tensor) -> Tensor:
    """One token for each of B texts, [B].

    Args:
        states: [B, D] after the last norm. head: [V, D].
        recent: [B, W] ids that the repeat penalty looks at; W at most `PENALTY_WINDOW`.
        sampling: seed, stop and max_tokens are not read. Without a top_k every token is a candidate.
        numbers: [B] in [0, 1): the same number draws the same token, whoever else is in the batch.
    """
    most = sampling.top_k or len(head)
    ids, logits = _candidates(states, head, most + PENALTY_WINDOW)
    logits = _penalised(ids, logits, recent, sampling.repeat_penalty)
    top = logits.topk(min(most, logits.shape[1]), dim=-1)
    ids = ids.gather(1, top.indices)
    if sampling.temperature == 0:
        return ids[:, 0]
    kept = _nucleus(top.values, sampling.top_p)
    probabilities = (kept / sampling.temperature).softmax(dim=-1)
    place = (probabilities.cumsum(dim=-1) <= numbers[:, None]).sum(dim=-1)
    last = kept.isfinite().sum(dim=-1) - 1  # rounding may leave the sum a little under 1
    return ids.gather(1, torch.minimum(place, last)[:, None])[:, 0]


def _candidates(states: Tensor, head: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Ids [B, C] and float32 logits [B, C] of the likeliest tokens.

    A penalty lowers at most `PENALTY_WINDOW` logits, so so many more than top-k hold all that top-k may keep. They are
    found in the head's own precision, where neighbours may be rounded to the same value, and then worked out anew.
    """
    if count >= len(head):
        return torch.arange(len(head)).expand(len(states), -1), states.float() @ head.float().T
    ids = (states.to(head.dtype) @ head.T).topk(count, dim=-1).indices
    exact = torch.einsum("bd,bcd->bc", states.float(), head[ids].float())
    return ids, exact


def _penalised(ids: Tensor, logits: Tensor, recent: Tensor, penalty: float) -> Tensor:
    """Logits of tokens that came up lately, divided by the penalty where positive, multiplied where negative."""
    if penalty == 1.0:
        return logits
    seen = (ids[:, :, None] == recent[:, None, :]).any(dim=-1)
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Logits in falling order, -inf behind the smallest set that holds so much probability."""
    probabilities = logits.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    return logits.masked_fill(before >= top_p, float("-inf"))
