"""Which student layers are matched to which teacher layers, and the maps between their widths.

In:  the recipe's pairs, the student's and the store's widths.
Out: student states in the teacher's width.
Does not know: losses, training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.problem import Problem
from potstill.recipe import HiddenPair
from potstill.signals.store import SignalStore


@dataclass(frozen=True)
class HiddenMatch:
    """Pairs and their projections; empty where the widths agree.

    Args:
        pairs: layers from 1. projections: pair → linear map d → D, thrown away after training.
    """

    pairs: tuple[HiddenPair, ...]
    projections: dict[tuple[int, int], nn.Linear]

    @classmethod
    def between(cls, student: PreTrainedModel, store: SignalStore, pairs: Sequence[HiddenPair]) -> HiddenMatch:
        """Check the pairs against both models. Raises: Problem where a layer does not exist or is not in the store."""
        layers, width = student.config.num_hidden_layers, student.config.hidden_size
        for pair in pairs:
            if pair.student > layers:
                raise Problem(f"distill.hidden_pairs names student layer {pair.student}, it has {layers}", "Lower it.")
            if pair.teacher not in store.form.layers:
                raise Problem(f"the signals hold no state of teacher layer {pair.teacher}", "Run `signals` again.")
        if width == store.form.width:
            return cls(tuple(pairs), {})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            maps = {(pair.student, pair.teacher): nn.Linear(width, store.form.width, bias=False) for pair in pairs}
        return cls(tuple(pairs), maps)

    def parameters(self) -> list[nn.Parameter]:
        """Weights of all projections."""
        return [part for projection in self.projections.values() for part in projection.parameters()]

    def empty_gradients(self) -> None:
        """A step begins."""
        for weight in self.parameters():
            weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """The projections by name, for a checkpoint."""
        return {f"{student}-{teacher}": map_.weight for (student, teacher), map_ in self.projections.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put `state` back."""
        with torch.no_grad():
            for name, weight in self.state().items():
                weight.copy_(state[name])

    def to_teacher_width(self, pair: HiddenPair, states: Tensor) -> Tensor:
        """[N, D] from [N, d]."""
        projection = self.projections.get((pair.student, pair.teacher))
        return states if projection is None else projection(states.float())
