"""Many texts at once: a Transformers model writes them side by side.

In:  a model, prompts as ids, sampling settings, a seed for each.
Out: what was written, as ids, and whether it ended by itself; each as soon as it is over.
Does not know: chat templates, tokenizers, recipes, what the texts are for.

A token costs one reading of all weights, however many texts are written, so a hundred texts cost little more than one.
llama.cpp is made for one conversation, and several slots make it hardly faster; here matrix units do the work. For
bulk alone: the first token of a single answer is sooner there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from potstill.models.anatomy import body, decoder_layers, head_weight
from potstill.models.drawing import draw
from potstill.models.engine import PENALTY_WINDOW, Sampling

CACHED_TOKENS = 65_536
"""Columns of all texts of a batch together: about 0.8 GB of keys and values for a 0.5B model."""
READ_AT_ONCE = 4096
"""Tokens of prompts: what all of a batch would need between two layers is as much again as the model."""
MOST_TEXTS = 256
"""Beyond that a step takes longer in proportion."""
WORTH_A_COPY = 16
"""Rows are left out of the cache once one in so many is over."""


@dataclass(frozen=True)
class Written:
    """One text. `ended`: by an end token, which is not among its ids; otherwise it was cut at its limit."""

    ids: list[int]
    ended: bool


def batches(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Indices of prompts that are written together: of similar length, as many as there is room for.

    Args:
        lengths: tokens of each prompt. most: longest text, in tokens.
    """
    found: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        room = CACHED_TOKENS // (lengths[found[-1][0]] + most) if found else 0
        if found and len(found[-1]) < min(max(1, room), MOST_TEXTS):
            found[-1].append(index)
        else:
            found.append([index])
    return found


@torch.inference_mode()
def write_together(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    ends: Set[int],
    last: Set[int] = frozenset(),
) -> Iterator[tuple[int, Written]]:
    """Yield (place in `prompts`, text), in the order in which they are over.

    What a text is made of depends on its own seed; rounding depends on the batch, so the same batch repeats itself and
    another one may choose another word where two are equally likely.

    Args:
        prompts: one batch; none is empty. sampling: its seed and stop texts are not read.
        seeds: one a prompt. ends: ids that end a text. last: ids after which nothing is written; they belong to it.
    """
    rows = _Rows(model, prompts, sampling, seeds)
    while rows.places:
        tokens = rows.next_tokens()
        for row, token in enumerate(tokens.tolist()):
            if row in rows.over:
                continue
            ids = rows.written[row]
            if token not in ends:
                ids.append(token)
            if token in ends or token in last or len(ids) == sampling.max_tokens:
                rows.over.add(row)
                yield rows.places[row], Written(ids, token in ends)
        rows.take(tokens)


class _Rows:
    """The texts of a batch: a row each in the cache, prompts padded on the left.

    Rows that are over are written on, unread, until enough of them have come together to be worth a copy of the rest.
    """

    def __init__(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> None:
        self.model, self.sampling, self.head = model, sampling, head_weight(model)
        self.places, self.over = list(range(len(prompts))), set[int]()
        self.written: list[list[int]] = [[] for _ in prompts]
        self._random = [np.random.default_rng(seed) for seed in seeds]
        width = max(map(len, prompts))
        self._ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        self._seen = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        # A prompt that is shorter than the window repeats its first token: seen is seen.
        self._recent = torch.tensor([_window(prompt) for prompt in prompts])
        self._rooms = [_Room(len(prompts), width + sampling.max_tokens) for _ in decoder_layers(model)]
        self._cache = Cache(layers=[*self._rooms])

    def next_tokens(self) -> Tensor:
        """[B] what comes next in each row."""
        rows, columns = self._ids.shape
        few = max(1, READ_AT_ONCE // columns)
        states = torch.cat([self._last_states(slice(first, first + few)) for first in range(0, rows, few)])
        for room in self._rooms:
            room.columns_used += columns
        numbers = torch.tensor([random.random() for random in self._random])
        return draw(states, self.head, self._recent, self.sampling, numbers)

    def _last_states(self, rows: slice) -> Tensor:
        """[n, D] after the newest column of some rows."""
        for room in self._rooms:
            room.rows = rows
        seen, ids = self._seen[rows], self._ids[rows]
        output = body(self.model)(
            input_ids=ids,
            attention_mask=seen,
            position_ids=(seen.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :],
            past_key_values=self._cache,
            use_cache=True,
        )
        states: Tensor = output.last_hidden_state[:, -1]
        return states

    def take(self, tokens: Tensor) -> None:
        """Put them behind what each row has; leave out what is over."""
        self._ids = tokens[:, None]
        self._recent = torch.cat([self._recent[:, 1:], self._ids], dim=1)
        self._seen = torch.cat([self._seen, torch.ones_like(self._ids)], dim=1)
        if len(self.over) * WORTH_A_COPY >= len(self.places):
            self._drop()

    def _drop(self) -> None:
        left = [row for row in range(len(self.places)) if row not in self.over]
        self.over.clear()
        for name in ("places", "written", "_random"):
            setattr(self, name, [getattr(self, name)[row] for row in left])
        kept = torch.tensor(left, dtype=torch.long)
        self._ids, self._recent, self._seen = self._ids[kept], self._recent[kept], self._seen[kept]
        for room in self._rooms:
            room.keep(kept)


def _window(prompt: Sequence[int]) -> list[int]:
    latest = list(prompt[-PENALTY_WINDOW:])
    return [latest[0]] * (PENALTY_WINDOW - len(latest)) + latest


class _Room(DynamicLayer):
    """Keys and values of one layer, with room for what is to come: the library's own copies all of it every token.

    Args:
        texts, columns: that there is room for. `rows` are those that the model is at; all stand at `columns_used`.
    """

    def __init__(self, texts: int, columns: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._texts, self._columns = texts, columns
        self._all: list[Tensor] = []
        self.rows, self.columns_used = slice(texts), 0

    def get_seq_length(self) -> int:
        """Columns before the newest."""
        return self.columns_used

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add the newest columns of these rows; returns all of theirs."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._all = [
                new.new_empty(self._texts, new.shape[1], self._columns, new.shape[-1])
                for new in (key_states, value_states)
            ]
        end = self.columns_used + key_states.shape[-2]
        for room, new in zip(self._all, (key_states, value_states), strict=True):
            room[self.rows, :, self.columns_used : end] = new
        self.keys, self.values = (room[self.rows, :, :end] for room in self._all)
        return self.keys, self.values

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self._all = [room[rows] for room in self._all]
