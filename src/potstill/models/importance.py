"""How much each column of each weight matters: the mean square of what is multiplied with it.

In:  a Transformers causal model, token ids of text it will meet.
Out: weight's name → one number a column, of mean 1.
Does not know: number formats, files, where the text comes from.

An error e in column j of a weight changes the output by e · x_j, so squared errors count by the mean of x_j². llama.cpp
calls the same table an importance matrix (imatrix).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from potstill.models.anatomy import body
from potstill.models.examples import batches_by_length, pad
from potstill.models.inputs import listening

FLOOR = 1e-3
"""Least importance of a column, of the mean: text of some thousand tokens may leave a column unused by chance."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@torch.inference_mode()
def measure_importance(
    model: PreTrainedModel, sequences: Sequence[NDArray[np.int64]], batch_tokens: int
) -> dict[str, NDArray[np.float32]]:
    """Read the sequences and average.

    Args:
        sequences: [T] each, at least two tokens. The first position is left out: what a decoder computes there is
            hundreds of times larger than anywhere else, whatever the text.
        batch_tokens: positions read at once, padding included.

    Returns: name of a weight → [d] float32, mean 1, at least FLOOR. The head's is that of a tied embedding as well.
    """
    sums: dict[str, Tensor] = {}
    real = torch.empty(0, dtype=torch.bool)

    def add(name: str, inputs: Tensor) -> None:
        squares = inputs.reshape(-1, inputs.shape[-1])[real].double().square().sum(dim=0)
        sums[name] = sums[name] + squares if name in sums else squares

    with listening(model, add):
        for batch in batches_by_length([len(ids) for ids in sequences], batch_tokens):
            ids = torch.from_numpy(pad([sequences[index] for index in batch]))
            places = torch.arange(ids.shape[1])
            lengths = torch.tensor([len(sequences[index]) for index in batch])
            real = ((places > 0) & (places < lengths[:, None])).reshape(-1)
            add(HEAD, body(model)(input_ids=ids, use_cache=False).last_hidden_state)
    if model.config.tie_word_embeddings:
        sums[EMBEDDING] = sums[HEAD]
    return {name: _normalised(squares) for name, squares in sums.items()}


def _normalised(squares: Tensor) -> NDArray[np.float32]:
    values = (squares / squares.mean().clamp_min(1e-30)).clamp_min(FLOOR)
    result: NDArray[np.float32] = (values / values.mean()).float().numpy()
    return result
