"""The two forms a teacher's thought is kept in, and what a loss may ask of either.

In:  hidden states after the teacher's last norm, and its head over the kept vocabulary.
Out: arrays for the disk; `Rows` that answer with divergences; attention maps without their empty half.
Does not know: files, answers, training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from potstill.losses import Sides, bucket_sides, dense_sides, divergences, kl
from potstill.recipe import LossesSection

Arrays = dict[str, Tensor]


class Rows(ABC):
    """What the teacher thought at N answer positions."""

    divisible: ClassVar[bool] = True
    """A few of the rows that `at` gives cost no more than their share."""

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def at(self, rows: slice) -> Rows:
        """Those alone. What takes one large product for all of them is computed now, not at each question."""

    @abstractmethod
    def sides(self, student_logits: Tensor, rows: slice, temperature: float) -> Sides:
        """Log-probabilities of both over the same outcomes, from the student's logits [n, V] at those rows."""

    def weights(self, wanted: LossesSection) -> dict[str, float]:
        """Name → weight of what `losses` gives for that recipe; cross entropy needs no teacher and isn't among it."""
        return {name: weight for name, weight in wanted.weights().items() if name != "cross_entropy"}

    def losses(
        self, student_logits: Tensor, rows: slice, temperature: float, wanted: LossesSection
    ) -> dict[str, Tensor]:
        """Each divergence that has a weight, times T², [n]; see `losses.divergences`."""
        sides = self.sides(student_logits, rows, temperature)
        return divergences(sides, temperature, self.weights(wanted), wanted.mixture, wanted.skew)

    def divergence(self, student_logits: Tensor, rows: slice, temperature: float) -> Tensor:
        """T² · KL(teacher ‖ student) [n], whatever is trained on: what a comparison asks for."""
        return temperature**2 * kl(*self.sides(student_logits, rows, temperature))


@dataclass(frozen=True)
class HiddenRows(Rows):
    """All logits, exactly, at any temperature: the head replayed on cached hidden states.

    Args:
        hidden: [N, D] after the last norm.
        head: [V, D] the teacher's head over the kept tokens.
    """

    hidden: Tensor
    head: Tensor

    def __len__(self) -> int:
        """N."""
        return len(self.hidden)

    def logits(self, rows: slice) -> Tensor:
        """[n, V] in the head's dtype."""
        return self.hidden[rows].to(self.head.dtype) @ self.head.T

    def at(self, rows: slice) -> LogitRows:
        """Their logits."""
        return LogitRows(self.logits(rows))

    def sides(self, student_logits: Tensor, rows: slice, temperature: float) -> Sides:
        """Over the whole kept vocabulary, [n, V]."""
        return self.at(rows).sides(student_logits, slice(None), temperature)


@dataclass(frozen=True)
class LogitRows(Rows):
    """All logits, there to be read.

    Args:
        values: [N, V].
    """

    values: Tensor

    def __len__(self) -> int:
        """N."""
        return len(self.values)

    def at(self, rows: slice) -> LogitRows:
        """A view of them."""
        return LogitRows(self.values[rows])

    def sides(self, student_logits: Tensor, rows: slice, temperature: float) -> Sides:
        """Over the whole vocabulary, [n, V]."""
        # Rows that the teacher has just read lie where it reads, which may be another device.
        return dense_sides(self.values[rows].to(student_logits.device), student_logits, temperature)


@dataclass(frozen=True)
class TopKRows(Rows):
    """K likeliest tokens and the exact mass of the rest, for teachers whose head is out of reach.

    Args:
        ids: [N, K]; log_probabilities: [N, K] at T = 1.
        rests: temperature → [N] log Σ exp(log-probability / T) over all other tokens.
    """

    ids: Tensor
    log_probabilities: Tensor
    rests: Mapping[float, Tensor]

    def __len__(self) -> int:
        """N."""
        return len(self.ids)

    def at(self, rows: slice) -> TopKRows:
        """A view of them."""
        rests = {temperature: rest[rows] for temperature, rest in self.rests.items()}
        return TopKRows(self.ids[rows], self.log_probabilities[rows], rests)

    def sides(self, student_logits: Tensor, rows: slice, temperature: float) -> Sides:
        """Over K tokens and one bucket, [n, K + 1]. Raises: ValueError at a temperature without a stored rest."""
        known = [stored for stored in self.rests if abs(stored - temperature) < 1e-6]
        if not known:
            raise ValueError(f"no rest is stored at T = {temperature}; there is one at {sorted(self.rests)}")
        rest = self.rests[known[0]][rows]
        return bucket_sides(self.ids[rows], self.log_probabilities[rows], rest, student_logits, temperature)


def quantise_rows(values: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """int8 with one float16 scale for every `group` neighbours.

    Args:
        values: [N, D], D divisible by group.

    Returns: int8 [N, D] and float16 scales [N, D / group].
    """
    grouped = values.float().unflatten(1, (-1, group))
    # Divide by the scale as stored, or rounding it to float16 would shift every value.
    scales = (grouped.abs().amax(dim=-1) / 127).clamp(min=1e-7).half()
    return (grouped / scales.float()[..., None]).round().clamp(-127, 127).to(torch.int8).flatten(1), scales


def dequantise_rows(quantised: Tensor, scales: Tensor) -> Tensor:
    """float32 [N, D] from `quantise_rows`."""
    group = quantised.shape[1] // scales.shape[1]
    values: Tensor = quantised.unflatten(1, (-1, group)).float() * scales.float()[..., None]
    return values.flatten(1)


def encode_states(name: str, states: Tensor, precision: str, group: int) -> Arrays:
    """Hidden states [N, D] as arrays for the disk, under `name`."""
    if precision == "float16":
        return {name: states.half()}
    quantised, scales = quantise_rows(states, group)
    return {name: quantised, f"{name}.scale": scales}


def decode_states(name: str, arrays: Mapping[str, Tensor]) -> Tensor:
    """float32 [N, D] from `encode_states`."""
    if f"{name}.scale" in arrays:
        return dequantise_rows(arrays[name], arrays[f"{name}.scale"])
    return arrays[name].float()


def encode_attention(layer: int, maps: Tensor) -> Arrays:
    """Attention of one answer's positions, [n, T] with T tokens in all, as one array without what lies ahead.

    The first row is that of the answer's first token, which T - n tokens come before; every row sees one more.
    """
    return {f"attention-{layer}": maps[_seen(len(maps), maps.shape[1] - len(maps), maps.shape[1])].half()}


def decode_attention(values: Tensor, rows: int, start: int, width: int) -> Tensor:
    """float32 [n, width] from `encode_attention`, 0 where nothing is seen.

    Args:
        values: the array. rows: n. start: tokens before the answer. width: at least start + n - 1.
    """
    maps = values.new_zeros(rows, width, dtype=torch.float32)
    maps[_seen(rows, start, width)] = values.float()
    return maps


def attention_values(rows: Tensor, starts: Tensor) -> Tensor:
    """How many values `encode_attention` keeps of answers of so many rows after so many tokens."""
    return rows * (2 * starts + rows - 1) // 2


def _seen(rows: int, start: int, width: int) -> Tensor:
    return torch.arange(width) < (start + torch.arange(rows))[:, None]


def encode_topk(hidden: Tensor, head: Tensor, k: int, temperatures: Sequence[float], chunk: int = 256) -> Arrays:
    """Top-k ids, log-probabilities, and the rest's log-mass at each temperature.

    Args:
        hidden: [N, D]; head: [V, D]; k: at most V.

    Returns: `topk.ids` int32 [N, K], `topk.log_probabilities` float32 [N, K], `topk.rests` float32 [N, temperatures].
    """
    ids, log_probabilities, rests = [], [], []
    for part in hidden.split(chunk):
        scores = (part.to(head.dtype) @ head.T).float().log_softmax(dim=-1)
        top = scores.topk(min(k, scores.shape[1]), dim=-1)
        others = scores.scatter(1, top.indices, float("-inf"))
        ids.append(top.indices.int())
        log_probabilities.append(top.values)
        rests.append(torch.stack([(others / temperature).logsumexp(dim=-1) for temperature in temperatures], dim=1))
    return {
        "topk.ids": torch.cat(ids),
        "topk.log_probabilities": torch.cat(log_probabilities),
        "topk.rests": torch.cat(rests),
    }
