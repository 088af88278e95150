"""What the teacher expects to say: which tokens it likes, and how much of that a vocabulary keeps.

In:  a teacher, examples in its own or in the student's ids.
Out: expected uses of every token; the probability that falls on kept tokens.
Does not know: recipes, runs, how tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from potstill.models.anatomy import head_weight
from potstill.models.examples import Example
from potstill.models.reading import BATCH_TOKENS, LAST, read_states
from potstill.progress import Task
from potstill.vocab.map import VocabMap

CHUNK = 256
"""Rows of full-vocabulary logits at a time: 156 MB for 152,000 tokens."""


@torch.inference_mode()
def expected_uses(model: PreTrainedModel, examples: Sequence[Example], task: Task) -> Tensor:
    """[V] float64: the teacher's probability of each token, summed over all answer positions.

    A count of what was written sees each position's one token; this sees all that could have been written there, so
    that likely tokens that a small text happens to lack are kept before unlikely ones.

    Args:
        examples: in the teacher's own ids.
    """
    total = torch.zeros(len(head_weight(model)), dtype=torch.float64)
    for logits in answer_logits(model, examples, None, task):
        total += logits.softmax(dim=-1).sum(dim=0).double()
    return total


@torch.inference_mode()
def kept_probability(model: PreTrainedModel, examples: Sequence[Example], vocabulary: VocabMap, task: Task) -> float:
    """Mean over answer positions of the probability that the teacher gives to kept tokens.

    Args:
        examples: in the student's ids, as the teacher will read them in the signals.
    """
    kept = torch.from_numpy(vocabulary.teacher_ids)
    share, positions = 0.0, 0
    for logits in answer_logits(model, examples, kept, task):
        share += float((logits[:, kept].logsumexp(-1) - logits.logsumexp(-1)).exp().sum())
        positions += len(logits)
    return share / max(positions, 1)


@torch.inference_mode()
def probability_of(
    model: PreTrainedModel, examples: Sequence[Example], sets: Mapping[str, NDArray[np.int64]], task: Task
) -> dict[str, float]:
    """Mean over rows of the probability that the teacher gives to each set of its tokens.

    Args:
        examples: in the teacher's own ids. sets: name → teacher ids.
    """
    shares, rows = dict.fromkeys(sets, 0.0), 0
    for logits in answer_logits(model, examples, None, task):
        probabilities = logits.softmax(dim=-1)
        for name, ids in sets.items():
            shares[name] += float(probabilities[:, torch.from_numpy(ids)].sum())
        rows += len(logits)
    return {name: share / max(rows, 1) for name, share in shares.items()}


def answer_logits(
    model: PreTrainedModel, examples: Sequence[Example], model_ids: Tensor | None, task: Task
) -> Iterator[Tensor]:
    """Chunks [n, V] float32 of the model's logits at all answer positions.

    Args:
        examples: what to read. model_ids: [V] the model's id of each id in them; None where they are the same.
    """
    head = head_weight(model)
    for index, states in read_states(model, examples, model_ids, (), BATCH_TOKENS):
        for begin in range(0, len(states[LAST]), CHUNK):
            yield (states[LAST][begin : begin + CHUNK] @ head.T).float()
        task.advance(len(examples[index].ids))
