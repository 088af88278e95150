"""The signal store: what the teacher thought at every answer token, on disk, memory-mapped.

In:  examples and their states, or a folder that holds a finished store.
Out: self-describing safetensors shards and `index.json`; examples, rows and states by number.
Does not know: models, recipes, how states are computed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from potstill.fidelity import NOTHING, Fidelity, compare
from potstill.models.examples import Example
from potstill.models.positions import predicted
from potstill.problem import Problem
from potstill.run import read_json
from potstill.signals.formats import Arrays, HiddenRows, Rows, TopKRows, decode_states

FORMAT = 1
INDEX, HEAD = "index.json", "head.safetensors"


@dataclass(frozen=True)
class StoreFormat:
    """What every shard says of itself.

    Args:
        kind: hidden or topk. precision: int8 or float16. group: values a scale.
        width: D. vocabulary: V. layers: middle layers kept. temperatures: where topk has a rest.
        teacher: SHA-256 of the teacher. version: of this layout.
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


def write_shard(path: Path, form: StoreFormat, examples: Sequence[Example], signals: Sequence[Arrays]) -> None:
    """Write one shard whole or not at all. `signals[i]` holds the arrays of `examples[i]`."""
    arrays: Arrays = {
        "ids": torch.cat([torch.from_numpy(example.ids).int() for example in examples]),
        "lengths": torch.tensor([len(example.ids) for example in examples], dtype=torch.int32),
        "starts": torch.tensor([example.start for example in examples], dtype=torch.int32),
    }
    for name in signals[0]:
        arrays[name] = torch.cat([signal[name] for signal in signals])
    described = {
        "potstill.signals": json.dumps(asdict(form)),
        "ids": json.dumps([example.id for example in examples], ensure_ascii=False),
        "categories": json.dumps([example.category for example in examples], ensure_ascii=False),
    }
    temporary = path.with_name(path.name + ".tmp")
    save_file(arrays, temporary, metadata=described)
    temporary.replace(path)


class _Shard:
    """One open shard: memory-mapped, sliced by example."""

    def __init__(self, path: Path, expected: StoreFormat) -> None:
        try:
            self.file: Any = safe_open(path, framework="pt")
            described: Mapping[str, str] = self.file.metadata() or {}
            self.names_of_arrays: list[str] = list(self.file.keys())
            form = json.loads(described["potstill.signals"])
            self.names: list[str] = json.loads(described["ids"])
            self.categories: list[str] = json.loads(described["categories"])
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise Problem(f"{path}: truncated or not a signal shard ({error})", _AGAIN) from None
        if form != json.loads(json.dumps(asdict(expected))):
            raise Problem(f"{path}: was made by other settings than its index says", _AGAIN)
        lengths = self.file.get_tensor("lengths").long()
        self.starts = self.file.get_tensor("starts").long()
        self.token_ends = lengths.cumsum(0)
        self.row_ends = (lengths - self.starts).cumsum(0)
        self.lengths = lengths

    def example(self, index: int) -> Example:
        end, length = int(self.token_ends[index]), int(self.lengths[index])
        ids = self.file.get_slice("ids")[end - length : end].long().numpy()
        return Example(self.names[index], self.categories[index], ids, int(self.starts[index]))

    def arrays(self, index: int, prefix: str) -> Arrays:
        end = int(self.row_ends[index])
        begin = end - int(self.lengths[index] - self.starts[index])
        names = [name for name in self.names_of_arrays if name.split(".")[0] == prefix]
        return {name: self.file.get_slice(name)[begin:end] for name in names}


_AGAIN = "Run the stage `signals` again: delete its folder, then potstill run."


class SignalStore:
    """A finished store. Opening it reads only headers.

    Args:
        folder: where `index.json` lies.
        split: "train" or "held-out".

    Raises: Problem where a shard is missing, truncated or made by other settings.
    """

    def __init__(self, folder: Path, split: str) -> None:
        index = read_json(folder / INDEX)
        self.folder = folder
        described = index["format"]
        if described["version"] != FORMAT:
            raise Problem(f"{folder}: signals of format {described['version']}, this potstill reads {FORMAT}", _AGAIN)
        self.form = StoreFormat(
            **{**described, "layers": tuple(described["layers"]), "temperatures": tuple(described["temperatures"])}
        )
        self._shards = [_Shard(folder / name, self.form) for name in index["shards"][split]]
        self._places = [(shard, row) for shard in self._shards for row in range(len(shard.names))]
        self.examples = [shard.example(row) for shard, row in self._places]

    def __len__(self) -> int:
        """Examples in the store."""
        return len(self._places)

    @property
    def rows(self) -> int:
        """Answer positions in the store."""
        return sum(example.rows for example in self.examples)

    @cached_property
    def head(self) -> Tensor:
        """[V, D] the teacher's head over the kept tokens, as it was loaded."""
        try:
            return load_file(self.folder / HEAD)["head"]
        except (OSError, SafetensorError, KeyError) as error:
            raise Problem(f"{self.folder / HEAD}: damaged ({error})", _AGAIN) from None

    def rows_of(self, indices: Sequence[int]) -> Rows:
        """The signals of some examples, end to end, [N, …]."""
        parts = [self._arrays(index, "hidden" if self.form.kind == "hidden" else "topk") for index in indices]
        if self.form.kind == "hidden":
            return HiddenRows(torch.cat([decode_states("hidden", part) for part in parts]), self.head)
        rests = torch.cat([part["topk.rests"] for part in parts])
        return TopKRows(
            torch.cat([part["topk.ids"] for part in parts]),
            torch.cat([part["topk.log_probabilities"] for part in parts]),
            {temperature: rests[:, column] for column, temperature in enumerate(self.form.temperatures)},
        )

    def compare(self, index: int, student_logits: Tensor, ends: Sequence[int] = ()) -> list[Fidelity]:
        """Fidelity of a student's logits [n, V] at one example's answer positions. Needs hidden signals.

        Args:
            ends: ascending; cut the answer before these positions.

        Returns: one `Fidelity` a stretch, `len(ends) + 1` in all; of 0 positions where the answer is too short.
        """
        rows = self.rows_of([index])
        if not isinstance(rows, HiddenRows):
            raise Problem(
                "fidelity needs all logits, and topk signals do not hold them", 'Set signals.format = "hidden".'
            )
        example = self.examples[index]
        tokens = torch.from_numpy(example.ids[predicted(example.start, len(example.ids))])
        teacher_logits = HiddenRows(rows.hidden, self._float_head).logits(slice(None))
        bounds = pairwise(min(end, len(tokens)) for end in (0, *ends, len(tokens)))
        return [
            compare(teacher_logits[begin:end], student_logits[begin:end], tokens[begin:end]) if begin < end else NOTHING
            for begin, end in bounds
        ]

    @cached_property
    def _float_head(self) -> Tensor:
        return self.head.float()

    def layer_states(self, indices: Sequence[int], layer: int) -> Tensor:
        """[N, D] states of a middle layer of some examples, end to end."""
        name = f"layer-{layer}"
        return torch.cat([decode_states(name, self._arrays(index, name)) for index in indices])

    def _arrays(self, index: int, prefix: str) -> Arrays:
        shard, row = self._places[index]
        return shard.arrays(row, prefix)
