"""A model reads: hidden states at answer positions.

In:  a teacher or a student, examples in the student's ids, the model's id of each of them.
Out: for every example, the states (and attention) of the wanted layers at the positions that predict its answer.
Does not know: paths, recipes, storage formats, the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from potstill.models.anatomy import body
from potstill.models.attention import attention_maps, use_eager_attention
from potstill.models.examples import Example, batches_by_length, pad

LAST = 0
"""Key of the state after the last norm; middle layers are keyed by their number, from 1."""


def attention_key(layer: int) -> int:
    """Key of a layer's attention map: minus its number."""
    return -layer


BATCH_TOKENS = 2048
"""Tokens read at a time where a recipe does not say."""


@torch.inference_mode()
def read_states(
    model: PreTrainedModel,
    examples: Sequence[Example],
    model_ids: Tensor | None,
    layers: Sequence[int],
    batch_tokens: int,
    attention: Sequence[int] = (),
) -> Iterator[tuple[int, dict[int, Tensor]]]:
    """Yield (index of the example, {layer: [n, D], attention_key(layer): [n, T]}), in the order of the batches.

    Args:
        model: any Transformers causal model.
        examples: what to read.
        model_ids: [V] the model's id of each student id; None where they are the same.
        layers: middle layers wanted beside the last state, from 1.
        batch_tokens: positions read at once, padding included.
        attention: layers whose attention (mean over heads) is wanted too; the model then stays slower.

    Everything runs through one forward pass without a head, a cache or a mask: padding stands on the right, where
    causal attention cannot see it.
    """
    if attention:
        use_eager_attention(model)
    for batch in batches_by_length([len(example.ids) for example in examples], batch_tokens):
        ids = torch.from_numpy(pad([examples[index].ids for index in batch]))
        if model_ids is not None:
            ids = model_ids[ids]
        with attention_maps(model, attention) as maps:
            output = body(model)(input_ids=ids, use_cache=False, output_hidden_states=bool(layers))
        states = {layer: output.hidden_states[layer] for layer in layers} | {LAST: output.last_hidden_state}
        for row, index in enumerate(batch):
            length = len(examples[index].ids)
            wanted = examples[index].predicting
            seen = {attention_key(layer): map_[row, wanted, :length] for layer, map_ in maps.items()}
            yield index, {layer: state[row, wanted] for layer, state in states.items()} | seen
