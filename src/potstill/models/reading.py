"""A model reads: hidden states at answer positions.

In:  a teacher or a student, examples in the student's ids, the model's id of each of them.
Out: for every example, the states of the wanted layers at the positions that predict its answer.
Does not know: paths, recipes, storage formats, the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from potstill.models.anatomy import body
from potstill.models.examples import Example, batches_by_length, pad
from potstill.models.positions import predicting

LAST = 0
"""Key of the state after the last norm; middle layers are keyed by their number, from 1."""


@torch.inference_mode()
def read_states(
    model: PreTrainedModel,
    examples: Sequence[Example],
    model_ids: Tensor | None,
    layers: Sequence[int],
    batch_tokens: int,
) -> Iterator[tuple[int, dict[int, Tensor]]]:
    """Yield (index of the example, {layer: [n, D]}), in the order of the batches.

    Args:
        model: any Transformers causal model.
        examples: what to read.
        model_ids: [V] the model's id of each student id; None where they are the same.
        layers: middle layers wanted beside the last state, from 1.
        batch_tokens: positions read at once, padding included.

    Everything runs through one forward pass without a head, a cache or a mask: padding stands on the right, where
    causal attention cannot see it.
    """
    for batch in batches_by_length([len(example.ids) for example in examples], batch_tokens):
        ids = torch.from_numpy(pad([examples[index].ids for index in batch]))
        if model_ids is not None:
            ids = model_ids[ids]
        output = body(model)(input_ids=ids, use_cache=False, output_hidden_states=bool(layers))
        states = {layer: output.hidden_states[layer] for layer in layers} | {LAST: output.last_hidden_state}
        for row, index in enumerate(batch):
            wanted = predicting(examples[index].start, len(examples[index].ids))
            yield index, {layer: state[row, wanted] for layer, state in states.items()}
