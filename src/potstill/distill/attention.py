"""Which student layers look where which teacher layers look.

In:  the recipe's pairs, the student, the signal store.
Out: the distance between the maps of each pair.
Does not know: how maps are caught, training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from potstill.losses import attention_kl
from potstill.models.attention import use_eager_attention
from potstill.problem import Problem
from potstill.recipe import AttentionPair
from potstill.signals.store import SignalStore


@dataclass(frozen=True)
class AttentionMatch:
    """Pairs of layers, counted from 1, whose maps (mean over heads) are matched at the answer positions."""

    pairs: tuple[AttentionPair, ...]
    store: SignalStore

    @classmethod
    def between(cls, student: PreTrainedModel, store: SignalStore, pairs: Sequence[AttentionPair]) -> AttentionMatch:
        """Check the pairs, and make the student show its maps. Raises: Problem where a layer or its map is missing."""
        layers = student.config.num_hidden_layers
        for pair in pairs:
            if pair.student > layers:
                raise Problem(
                    f"distill.attention_pairs names student layer {pair.student}, it has {layers}", "Lower it."
                )
            if pair.teacher not in store.form.attention:
                raise Problem(f"the signals hold no attention of teacher layer {pair.teacher}", "Run `signals` again.")
        if pairs:
            use_eager_attention(student)
        return cls(tuple(pairs), store)

    @property
    def layers(self) -> tuple[int, ...]:
        """Student layers whose maps are wanted."""
        return tuple(sorted({pair.student for pair in self.pairs}))

    def distance(self, pair: AttentionPair, maps: Mapping[int, Tensor], rows: Tensor, numbers: Sequence[int]) -> Tensor:
        """KL at each position.

        Args:
            maps: student layer → [B, T, T]. rows: [N] places in the flattened [B·T]. numbers: [B] in the store.

        Returns: [N] nats.
        """
        student = maps[pair.student].flatten(0, 1)[rows]
        teacher = self.store.attention(numbers, pair.teacher, student.shape[1])
        return attention_kl(teacher.to(student.device), student)
