"""Signals from a teacher that is loaded: read, encode, write shard by shard.

In:  a `Source` (teacher, vocabulary map, format), examples, a folder.
Out: the shards of one split; those already there are kept.
Does not know: recipes, runs, where the teacher came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from potstill.models.examples import Example
from potstill.models.reading import LAST, attention_key, read_states
from potstill.progress import Task
from potstill.signals.formats import Arrays, encode_attention, encode_states, encode_topk
from potstill.signals.store import StoreFormat, write_shard


@dataclass(frozen=True)
class Source:
    """A teacher ready to be read.

    Args:
        model: the teacher; teacher_ids: [V] its ids of the student's tokens; head: [V, D] its head over them.
        form: the format its signals are kept in; k: tokens a position in the topk format.
        batch_tokens: positions read at once.

    A teacher with a tokenizer of its own has no `teacher_ids`: it reads examples in its own ids.
    """

    model: PreTrainedModel
    teacher_ids: Tensor | None
    head: Tensor
    form: StoreFormat
    k: int
    batch_tokens: int

    def form_of(self, split: str) -> StoreFormat:
        """What a split is kept in. A student is measured against all logits, whatever it is trained on."""
        if split == "held-out" and self.form.kind == "topk":
            return replace(self.form, kind="hidden", temperatures=())
        return self.form


def collect_signals(
    source: Source,
    split: str,
    examples: Sequence[Example],
    shard_answers: int,
    folder: Path,
    task: Task,
    as_read: Sequence[Example] | None = None,
) -> list[str]:
    """Write the shards of one split, `shard_answers` examples each. Returns: their file names, in order.

    Args:
        examples: as they are kept, in the student's ids.
        as_read: the same answers in the ids of a teacher with its own tokenizer, as many rows each.
    """
    as_read = examples if as_read is None else as_read
    source = replace(source, form=source.form_of(split))
    names = []
    for number, begin in enumerate(range(0, len(examples), shard_answers)):
        part = examples[begin : begin + shard_answers]
        path = folder / f"{split}-{number:05d}.safetensors"
        if path.exists():
            task.advance(sum(len(example.ids) for example in as_read[begin : begin + shard_answers]))
        else:
            signals = read_signals(source, as_read[begin : begin + shard_answers], task)
            write_shard(path, source.form, part, signals)
        names.append(path.name)
    return names


def read_signals(source: Source, examples: Sequence[Example], task: Task) -> list[Arrays]:
    """The arrays of each example, in the order given."""
    signals: dict[int, Arrays] = {}
    form = source.form
    for index, states in read_states(
        source.model, examples, source.teacher_ids, form.layers, source.batch_tokens, form.attention
    ):
        signals[index] = _encode(source, states)
        task.advance(len(examples[index].ids))
    return [signals[index] for index in range(len(examples))]


def _encode(source: Source, states: dict[int, Tensor]) -> Arrays:
    form = source.form
    arrays: Arrays = {}
    if form.kind == "topk":
        with torch.inference_mode():
            arrays |= encode_topk(states[LAST], source.head, source.k, form.temperatures)
    else:
        arrays |= encode_states("hidden", states[LAST], form.precision, form.group)
    for layer in form.layers:
        arrays |= encode_states(f"layer-{layer}", states[layer], form.precision, form.group)
    for layer in form.attention:
        arrays |= encode_attention(layer, states[attention_key(layer)])
    return arrays
