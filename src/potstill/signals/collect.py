"""Signals from a teacher that is loaded: read, encode, write shard by shard.

In:  a `Source` (teacher, vocabulary map, format), examples, a folder.
Out: the shards of one split; those already there are kept.
Does not know: recipes, runs, where the teacher came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from potstill.models.examples import Example
from potstill.models.reading import LAST, attention_key, read_states
from potstill.progress import Task
from potstill.run import digest
from potstill.signals.formats import Arrays, encode_attention, encode_states, encode_topk
from potstill.signals.store import StoreFormat, write_shard
from potstill.storage import Storage


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
    reading = Reading(
        source, {split: examples}, {split: examples if as_read is None else as_read}, shard_answers, folder
    )
    for shard in reading.shards():
        for tokens in [reading.tokens(shard)] if reading.path(shard).exists() else reading.write(shard):
            task.advance(tokens)
    return reading.names(split)


Shard = tuple[str, int]
"""Split and number: the unit of work. A shard's batches hold its own examples alone, whoever reads it."""


@dataclass(frozen=True)
class Reading:
    """All that is read for a store, cut into shards.

    Args:
        examples: split → examples as they are kept. as_read: the same in the teacher's ids, as many rows each.
        shard_answers: examples a shard. folder: where shards lie.
        storage: where they are kept as well, if anywhere.
    """

    source: Source
    examples: Mapping[str, Sequence[Example]]
    as_read: Mapping[str, Sequence[Example]]
    shard_answers: int
    folder: Path
    storage: Storage | None = None

    def shards(self) -> list[Shard]:
        """All of them, in order."""
        return [
            (split, number)
            for split, examples in self.examples.items()
            for number in range(-(-len(examples) // self.shard_answers))
        ]

    def path(self, shard: Shard) -> Path:
        """Where a shard lies once it is whole."""
        return self.folder / f"{shard[0]}-{shard[1]:05d}.safetensors"

    def names(self, split: str) -> list[str]:
        """File names of a split's shards, in order."""
        return [self.path(shard).name for shard in self.shards() if shard[0] == split]

    def tokens(self, shard: Shard) -> int:
        """Tokens that are read for a shard."""
        return sum(len(example.ids) for example in self._part(self.as_read, shard))

    def exchange(self) -> None:
        """Fetch the shards that storage holds and this folder lacks; keep those that this folder alone holds."""
        if self.storage is None:
            return
        held = set(self.storage.names())
        shards = {self._kept_name(shard): shard for shard in self.shards()}
        here = {name for name, shard in shards.items() if self.path(shard).exists()}
        self.storage.fetch(sorted(shards.keys() & held - here), self.folder)
        for name in sorted(here - held):
            self._keep(shards[name])

    def write(self, shard: Shard) -> Iterator[int]:
        """Read a shard and write it whole or not at all; gives out the tokens of each answer that was read."""
        source = replace(self.source, form=self.source.form_of(shard[0]))
        as_read = self._part(self.as_read, shard)
        signals: dict[int, Arrays] = {}
        for index, arrays in read_signals(source, as_read):
            signals[index] = arrays
            yield len(as_read[index].ids)
        in_order = [signals[index] for index in range(len(as_read))]
        write_shard(self.path(shard), source.form, self._part(self.examples, shard), in_order)
        self._keep(shard)

    def _keep(self, shard: Shard) -> None:
        if self.storage is not None:
            self.storage.put(self._kept_name(shard), self.folder, [self.path(shard)])

    def _kept_name(self, shard: Shard) -> str:
        """Names all that makes a shard: answers of the same settings may be other answers on another machine."""
        texts = [
            (kept.id, kept.category, kept.given, kept.start, kept.ids.tolist(), read.ids.tolist())
            for kept, read in zip(self._part(self.examples, shard), self._part(self.as_read, shard), strict=True)
        ]
        form = asdict(self.source.form_of(shard[0]))
        return f"{self.path(shard).stem}-{digest([form, str(self.source.model.dtype), texts])}"

    def _part(self, examples: Mapping[str, Sequence[Example]], shard: Shard) -> Sequence[Example]:
        begin = shard[1] * self.shard_answers
        return examples[shard[0]][begin : begin + self.shard_answers]


def read_signals(source: Source, examples: Sequence[Example]) -> Iterator[tuple[int, Arrays]]:
    """Index and arrays of each example, in the order of reading."""
    form = source.form
    for index, states in read_states(
        source.model, examples, source.teacher_ids, form.layers, source.batch_tokens, form.attention
    ):
        yield index, _encode(source, states)


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
