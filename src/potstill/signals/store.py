"""The signal store: what the teacher thought at every answer token, on disk, memory-mapped.

In:  examples and their states, or a folder that holds a finished store.
Out: self-describing safetensors shards and `index.json`; examples, rows and states by number.
Does not know: models, recipes, how states are computed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from potstill.fidelity import NOTHING, Fidelity, compare
from potstill.models.checkpoint import write_tensors
from potstill.models.examples import Example
from potstill.problem import Problem
from potstill.run import read_json
from potstill.signals.bound import BINDING_ARRAYS, BoundHead, BoundRows
from potstill.signals.formats import (
    Arrays,
    HiddenRows,
    Rows,
    TopKRows,
    attention_values,
    decode_attention,
    decode_states,
)

FORMAT = 2
INDEX, HEAD = "index.json", "head.safetensors"


@dataclass(frozen=True)
class StoreFormat:
    """What every shard says of itself.

    Args:
        kind: hidden, topk, or bound (hidden states of a teacher whose student has a tokenizer of its own).
        precision: int8 or float16. group: values a scale.
        width: D. vocabulary: V, the student's. layers: middle layers kept. temperatures: where topk has a rest.
        teacher: SHA-256 of the teacher. version: of this layout. attention: layers whose maps are kept.
    """

    kind: str
    precision: str
    group: int
    width: int
    vocabulary: int
    layers: tuple[int, ...]
    temperatures: tuple[float, ...]
    teacher: str
    version: int = FORMAT
    attention: tuple[int, ...] = ()


def write_shard(path: Path, form: StoreFormat, examples: Sequence[Example], signals: Sequence[Arrays]) -> None:
    """Write one shard whole or not at all. `signals[i]` holds the arrays of `examples[i]`."""
    arrays: Arrays = {
        "ids": torch.cat([torch.from_numpy(example.ids).int() for example in examples]),
        "lengths": torch.tensor([len(example.ids) for example in examples], dtype=torch.int32),
        "starts": torch.tensor([example.start for example in examples], dtype=torch.int32),
    }
    chosen = [example.places for example in examples if example.places is not None]
    if chosen:
        arrays["places"] = torch.from_numpy(np.concatenate(chosen)).int()
        arrays["counts"] = torch.tensor([len(places) for places in chosen], dtype=torch.int32)
    for name in signals[0]:
        arrays[name] = torch.cat([signal[name] for signal in signals])
    described = {
        "potstill.signals": json.dumps(asdict(form)),
        "ids": json.dumps([example.id for example in examples], ensure_ascii=False),
        "categories": json.dumps([example.category for example in examples], ensure_ascii=False),
        "given": json.dumps([example.given for example in examples]),
    }
    write_tensors(path, arrays, described)


class _Shard:
    """One shard, sliced by example; mapped only while something is read from it.

    A map that stays open keeps every page that was ever read among this process's memory.
    """

    def __init__(self, path: Path, expected: StoreFormat) -> None:
        self.path = path
        try:
            with self._open() as file:
                described: Mapping[str, str] = file.metadata() or {}
                self.names_of_arrays: list[str] = list(file.keys())
                form = json.loads(described["potstill.signals"])
                self.names: list[str] = json.loads(described["ids"])
                self.categories: list[str] = json.loads(described["categories"])
                # Shards of older versions say nothing of these two.
                self.given: list[bool] = json.loads(described.get("given", json.dumps([False] * len(self.names))))
                form.setdefault("attention", [])
                self.lengths, self.starts = (file.get_tensor(name).long() for name in ("lengths", "starts"))
                self.has_places = "places" in self.names_of_arrays
                rows = file.get_tensor("counts").long() if self.has_places else self.lengths - self.starts
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise self._damaged(error) from None
        if form != json.loads(json.dumps(asdict(expected))):
            raise Problem(f"{path}: was made by other settings than its index says", _AGAIN)
        self.row_ends = rows.cumsum(0)
        self.map_ends = attention_values(self.lengths - self.starts, self.starts).cumsum(0)

    def examples(self) -> list[Example]:
        """All of them, in order."""
        with self._open() as file:
            ids = file.get_tensor("ids").long().split(self.lengths.tolist())
            chosen: Sequence[Tensor | None] = [None] * len(ids)
            if self.has_places:
                chosen = file.get_tensor("places").long().split(self.row_ends.diff(prepend=torch.tensor([0])).tolist())
        return [
            Example(name, category, one.numpy(), start, given, None if places is None else places.numpy())
            for name, category, one, start, given, places in zip(
                self.names, self.categories, ids, self.starts.tolist(), self.given, chosen, strict=True
            )
        ]

    def arrays(self, index: int, prefix: str) -> Arrays:
        """Arrays `prefix.…` of one example: views of the file, which is mapped as long as they are kept."""
        ends = self.map_ends if prefix.startswith("attention-") else self.row_ends
        begin, end = int(ends[index - 1]) if index else 0, int(ends[index])
        names = [name for name in self.names_of_arrays if name.split(".")[0] == prefix]
        with self._open() as file:
            return {name: file.get_slice(name)[begin:end] for name in names}

    def _open(self) -> Any:
        try:
            return safe_open(self.path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> Problem:
        return Problem(f"{self.path}: truncated or not a signal shard ({error})", _AGAIN)


_AGAIN = "Run the stage `signals` again: delete its folder, then potstill run."


class SignalStore:
    """A finished store. Opening it reads headers and token ids, no signals.

    Args:
        folder: where `index.json` lies.
        split: "train" or "held-out".

    Raises: Problem where a shard is missing, truncated or made by other settings.
    """

    def __init__(self, folder: Path, split: str) -> None:
        index = read_json(folder / INDEX)
        self.folder, self.device = folder, torch.device("cpu")
        # The first version had one format for both splits, under another name.
        described = index["formats"][split] if "formats" in index else index["format"]
        if described["version"] != FORMAT:
            raise Problem(f"{folder}: signals of format {described['version']}, this potstill reads {FORMAT}", _AGAIN)
        frozen: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in described.items()
        }
        self.form = StoreFormat(**frozen)
        self._shards = [_Shard(folder / name, self.form) for name in index["shards"][split]]
        self._places = [(shard, row) for shard in self._shards for row in range(len(shard.names))]
        self.examples = [example for shard in self._shards for example in shard.examples()]

    def __len__(self) -> int:
        """Examples in the store."""
        return len(self._places)

    @property
    def rows(self) -> int:
        """Answer positions in the store."""
        return sum(example.rows for example in self.examples)

    def only(self, category: str) -> SignalStore:
        """The same store without the examples of other categories."""
        chosen = [index for index, example in enumerate(self.examples) if example.category == category]
        part = copy.copy(self)
        part._places = [self._places[index] for index in chosen]
        part.examples = [self.examples[index] for index in chosen]
        return part

    def on(self, device: torch.device) -> SignalStore:
        """The same store; rows, states and maps of the examples that are asked for are put on `device`."""
        if device == self.device:
            return self
        placed = copy.copy(self)
        placed.device = device
        for name in ("head", "_head_file", "_bound_head", "_float_head"):  # kept from where it was before
            placed.__dict__.pop(name, None)
        return placed

    @cached_property
    def head(self) -> Tensor:
        """[V, D] the teacher's head, as it was loaded: over the kept tokens, or over all of its own (bound)."""
        return self._head_file["head"]

    @cached_property
    def _head_file(self) -> Arrays:
        names = {"head", *(BINDING_ARRAYS if self.form.kind == "bound" else ())}
        try:
            arrays = load_file(self.folder / HEAD)
        except (OSError, SafetensorError) as error:
            raise Problem(f"{self.folder / HEAD}: damaged ({error})", _AGAIN) from None
        if missing := names - arrays.keys():
            raise Problem(f"{self.folder / HEAD}: lacks {', '.join(sorted(missing))}", _AGAIN)
        return {name: array.to(self.device) for name, array in arrays.items()}

    @cached_property
    def _bound_head(self) -> BoundHead:
        arrays = self._head_file
        return BoundHead(arrays["head"], arrays["student_of"], self.form.vocabulary, float(arrays["sorted_weight"]))

    def rows_of(self, indices: Sequence[int]) -> Rows:
        """The signals of some examples, end to end, [N, …]."""
        parts = [self._arrays(index, "topk" if self.form.kind == "topk" else "hidden") for index in indices]
        if self.form.kind != "topk":
            hidden = torch.cat([decode_states("hidden", part) for part in parts])
            return BoundRows(hidden, self._bound_head) if self.form.kind == "bound" else HiddenRows(hidden, self.head)
        rests = torch.cat([part["topk.rests"] for part in parts])
        return TopKRows(
            torch.cat([part["topk.ids"] for part in parts]),
            torch.cat([part["topk.log_probabilities"] for part in parts]),
            {temperature: rests[:, column] for column, temperature in enumerate(self.form.temperatures)},
        )

    def teacher_logits(self, index: int) -> Tensor:
        """[n, V] what the teacher would say at one example's rows, over the student's vocabulary. Needs all logits."""
        rows = self.rows_of([index])
        if isinstance(rows, BoundRows):
            return rows.student_logits(slice(None))
        if isinstance(rows, HiddenRows):
            return HiddenRows(rows.hidden, self._float_head).logits(slice(None))
        raise Problem("fidelity needs all logits, and topk signals do not hold them", 'Set signals.format = "hidden".')

    def compare(self, index: int, student_logits: Tensor, ends: Sequence[int] = ()) -> list[Fidelity]:
        """Fidelity of a student at one example's rows. Needs hidden or bound signals.

        Across vocabularies the KL has all unbound tokens in one bucket, and top-1 looks at the bound ones.

        Args:
            student_logits: [n, V] at the rows, or at all answer tokens of an example that has fewer rows.
            ends: ascending; cut the answer before these answer tokens.

        Returns: one `Fidelity` a stretch, `len(ends) + 1` in all; of 0 positions where the answer is too short.
        """
        example = self.examples[index]
        answer_tokens = len(example.ids) - example.start
        places = np.arange(answer_tokens) if example.places is None else example.places
        if len(student_logits) == answer_tokens:
            student_logits = student_logits[places]
        tokens = torch.from_numpy(example.ids[example.predicted])
        teacher_logits = self.teacher_logits(index)
        bounds = pairwise(int(np.searchsorted(places, end)) for end in (0, *ends, answer_tokens))
        return [
            self._compared(teacher_logits[begin:end], student_logits[begin:end], tokens[begin:end])
            if begin < end
            else NOTHING
            for begin, end in bounds
        ]

    def _compared(self, teacher_logits: Tensor, student_logits: Tensor, tokens: Tensor) -> Fidelity:
        found = compare(teacher_logits, student_logits, tokens)
        if self.form.kind != "bound":
            return found
        head = self._bound_head
        shared_out = head.spread(head.log_sums(student_logits.float().log_softmax(dim=-1)))
        return replace(found, kl=compare(teacher_logits, shared_out, tokens).kl)

    @cached_property
    def _float_head(self) -> Tensor:
        return self.head.float()

    def layer_states(self, indices: Sequence[int], layer: int) -> Tensor:
        """[N, D] states of a middle layer of some examples, end to end."""
        name = f"layer-{layer}"
        return torch.cat([decode_states(name, self._arrays(index, name)) for index in indices])

    def attention(self, indices: Sequence[int], layer: int, width: int) -> Tensor:
        """[N, width] attention (mean over heads) of a layer at some examples' answer positions, end to end.

        Args:
            width: of the rows, 0 where nothing is seen; at least what the longest example needs.
        """
        name, parts = f"attention-{layer}", []
        for index in indices:
            example = self.examples[index]
            parts.append(decode_attention(self._arrays(index, name)[name], example.rows, example.start, width))
        return torch.cat(parts)

    def _arrays(self, index: int, prefix: str) -> Arrays:
        shard, row = self._places[index]
        # As stored: int8 with its scales is a quarter of what is made of it there.
        return {name: array.to(self.device) for name, array in shard.arrays(row, prefix).items()}
