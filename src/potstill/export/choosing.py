"""Which mix to ship: the closest file of a given size, or the smallest of a given closeness, by measurement.

In:  the float student, held-out answers, moments of its inputs; megabytes or nats.
Out: a mix, and everything that was tried.
Does not know: files, llama.cpp, the teacher.

Each part of the model (embedding, attention, ffn_in, ffn_down) is quantised alone to each type, and the KL to the
float student is measured on held-out answers. For small errors these add up, so every mix of them has a predicted KL;
the best by prediction are then measured whole, and only a measured one is chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from potstill.losses import forward_kl
from potstill.models.anatomy import head_weight
from potstill.models.examples import Example, evenly
from potstill.models.mix import GROUPS, group_of, name_of, stem_of
from potstill.models.quantise import plan_types, predicted_bytes
from potstill.models.reading import BATCH_TOKENS, LAST, read_states
from potstill.models.rounding import round_rows
from potstill.models.teacher import load_model
from potstill.problem import Problem
from potstill.run import Run
from potstill.signals.store import SignalStore

LADDER = ("Q4_0", "IQ4_NL", "Q5_0", "Q6_K", "Q8_0", "F16")
"""Types that are tried. Q4_K and Q5_K are not: they need rows of 256, and a student of width 896 has few."""
EXACT = "F16"
"""Counts as exact: trained weights are bfloat16, and float16 holds all but the tiniest of them."""
MEASURED = 4
"""Mixes that are measured whole, at most, in the order of their predictions; and as many again where none will do."""
ROWS = 256
Moments = Mapping[str, Tensor]


@dataclass(frozen=True)
class Candidate:
    """One mix. `kl`: nats to the float student, predicted as a sum, or `measured`."""

    name: str
    megabytes: float
    kl: float
    measured: bool


@dataclass(frozen=True)
class Choice:
    """What was chosen, why in one line, and all that was measured, smallest file first."""

    name: str
    why: str
    tried: tuple[Candidate, ...]


def choose(run: Run, moments: Moments, *, target_mb: float | None = None, max_kl: float | None = None) -> Choice:
    """Choose a mix for the run's student, and say so in a small table.

    Raises: Problem where no mix is small or close enough; it says what would be.
    """
    model = load_model(run.stage("distill") / "student", torch.float32)
    probe = Probe(model, held_out(run, run.recipe.export.choice_tokens), moments)
    least = min(probe.megabytes(kind) for kind in LADDER)
    if target_mb is not None and target_mb < least:
        raise Problem(f"No mix fits into {target_mb} MB", f"The smallest is {least:.1f} MB.")
    ladders = {group: ladder(probe, group) for group in GROUPS}
    with run.progress.task("choosing a mix", sum(map(len, ladders.values())), "measurements") as task:
        alone: dict[str, dict[str, float]] = {}
        for group, kinds in ladders.items():
            alone[group] = {}
            for kind in kinds:
                task.describe(f"{group} {kind}")
                alone[group][kind] = 0.0 if kind == EXACT else probe.divergence({group: kind})
                task.advance()
        choice = pick(probe, predict(probe, alone), target_mb, max_kl)
    for row in choice.tried:
        mark = "→" if row.name == choice.name else " "
        run.progress.say(f"{mark} {row.name:44} {row.megabytes:7.1f} MB   KL {row.kl:.4f} to the float student")
    run.progress.say(f"chosen: {choice.name}, {choice.why}")
    return choice


def choice_rows(choice: Choice) -> dict[str, Any]:
    """For the stage's report."""
    return {"name": choice.name, "why": choice.why, "tried": [vars(row) for row in choice.tried]}


def held_out(run: Run, tokens: int) -> list[Example]:
    """Held-out answers up to so many tokens, evenly over the store; training ones where nothing is held out."""
    stores = (SignalStore(run.stage("signals"), split) for split in ("held-out", "train"))
    return evenly(next((store.examples for store in stores if len(store)), []), tokens)


class Probe:
    """The float student, whose weights are quantised part by part and put back."""

    def __init__(self, model: PreTrainedModel, examples: Sequence[Example], moments: Moments) -> None:
        """Read the examples once with the float weights."""
        self._model, self._examples, self._moments = model, examples, moments
        self._weights = {name: weight.data for name, weight in model.named_parameters()}
        self._groups = {name: group_of(stem_of(name)) for name in self._weights}
        self.shapes = {name: tuple(weight.shape) for name, weight in self._weights.items()}
        self._packed: dict[tuple[str, str], NDArray[np.uint8]] = {}
        self._head = head_weight(model).detach().clone()
        self._states = dict(self._read())

    def megabytes(self, name: str) -> float:
        """Size of the file of a mix."""
        return predicted_bytes(self.shapes, name) / 1e6

    def divergence(self, types: Mapping[str, str]) -> float:
        """Mean KL, in nats, of the float student to itself with some parts quantised: group → type."""
        total, positions = 0.0, 0
        with self._quantised(types), torch.inference_mode():
            head = head_weight(self._model).detach()
            for index, states in self._read():
                for begin in range(0, len(states), ROWS):
                    rows = slice(begin, begin + ROWS)
                    exact = self._states[index][rows] @ self._head.T
                    total += float(forward_kl(exact, states[rows] @ head.T, 1.0).double().sum())
                positions += len(states)
        return total / positions

    def _read(self) -> Iterator[tuple[int, Tensor]]:
        for index, states in read_states(self._model, self._examples, None, (), BATCH_TOKENS):
            yield index, states[LAST].float()

    @contextmanager
    def _quantised(self, types: Mapping[str, str]) -> Iterator[None]:
        plans = {group: plan_types(self.shapes, kind) for group, kind in types.items()}
        parameters = dict(self._model.named_parameters())
        changed = [name for name, group in self._groups.items() if group in plans and self._weights[name].dim() > 1]
        try:
            for name in changed:
                kind = plans[str(self._groups[name])][name]
                parameters[name].data = self._rounded(name, kind)
            yield
        finally:
            for name in changed:
                parameters[name].data = self._weights[name]

    def _rounded(self, name: str, kind: str) -> Tensor:
        """What llama.cpp computes with in place of a weight; packed, it is kept for the next mix."""
        if (name, kind) not in self._packed:
            weight = self._weights[name].float().numpy()
            self._packed[name, kind] = round_rows(weight, kind, self._moments.get(name))
        made = dequantize(self._packed[name, kind], GGMLQuantizationType[kind])
        return torch.from_numpy(made.astype(np.float32, copy=False))


def ladder(probe: Probe, group: str) -> list[str]:
    """The types that one part can take; of those that come to the same (Q6_K of rows of 896 is Q8_0), the last."""
    shapes = {name: shape for name, shape in probe.shapes.items() if group_of(stem_of(name)) == group}
    made = {tuple(plan_types(shapes, kind).values()): kind for kind in LADDER}
    return list(made.values())


def predict(probe: Probe, alone: Mapping[str, Mapping[str, float]]) -> list[Candidate]:
    """Every mix, with its size and the sum of its parts' KL.

    Args:
        alone: group → type → KL with that part alone quantised.
    """
    found = []
    for kinds in itertools.product(*(alone[group] for group in GROUPS)):
        types = dict(zip(GROUPS, kinds, strict=True))
        name = name_of(types)
        kl = sum(alone[group][kind] for group, kind in types.items())
        found.append(Candidate(name, probe.megabytes(name), kl, False))
    return found


def pick(probe: Probe, candidates: Sequence[Candidate], target_mb: float | None, max_kl: float | None) -> Choice:
    """Measure the best by prediction, and the uniform types beside them; choose among what was measured."""
    tried = [_measured(probe, one) for one in candidates if one.name in LADDER]
    if target_mb is not None:
        fitting = [one for one in candidates if one.megabytes <= target_mb]
        best = sorted(fitting, key=lambda one: (one.kl, one.megabytes))[:MEASURED]
        tried += [_measured(probe, one) for one in best if one.name not in LADDER]
        chosen = min((one for one in tried if one.megabytes <= target_mb), key=lambda one: one.kl)
        why = f"the least KL ({chosen.kl:.4f}) of what fits into {target_mb} MB"
    else:
        assert max_kl is not None
        chosen = _smallest(probe, candidates, max_kl, tried)
        why = f"the smallest file ({chosen.megabytes:.1f} MB) measured within {max_kl} nats"
    rows = {one.name: one for one in sorted(tried, key=lambda one: one.megabytes)}
    return Choice(chosen.name, why, tuple(rows.values()))


def _smallest(probe: Probe, candidates: Sequence[Candidate], max_kl: float, tried: list[Candidate]) -> Candidate:
    """The smallest measured within `max_kl`; those whose prediction promises it are measured, smallest first."""
    fallback = min((one for one in tried if one.kl <= max_kl), key=lambda one: one.megabytes, default=None)
    if fallback is None:
        raise Problem(
            f"No type is within {max_kl} nats of the float student", f"{EXACT} has {tried[-1].kl:.4f}: allow more."
        )
    promising = [one for one in candidates if one.kl <= max_kl and one.megabytes < fallback.megabytes]
    for one in sorted(promising, key=lambda one: one.megabytes)[: 2 * MEASURED]:
        measured = _measured(probe, one)
        tried.append(measured)
        if measured.kl <= max_kl:
            return measured
    return fallback


def _measured(probe: Probe, one: Candidate) -> Candidate:
    kinds = _types_of(one.name)
    return replace(one, kl=probe.divergence(kinds), measured=True)


def _types_of(name: str) -> dict[str, str]:
    base, *rest = name.split("-")
    return dict.fromkeys(GROUPS, base) | dict(zip(rest[::2], rest[1::2], strict=True))
