"""One training by several ranks: the batches are divided, the gradients are not.

In:  what `trainer` takes; a joined process group (`ranks`).
Out: the same steps that one process would take, a line of log a step from the first rank.
Does not know: run folders, how ranks are started.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback

from potstill.distill import ranks
from potstill.distill.batches import LengthBatches, collate
from potstill.distill.companion import Batch
from potstill.distill.mixing import MixedBatches
from potstill.distill.schedule import Clock
from potstill.distill.trainer import DistillTrainer
from potstill.models.anatomy import body
from potstill.models.examples import Example


class Share(Sampler[list[int]]):
    """Every `count`-th batch, from the one numbered `rank` on; where the last are missing, a batch of nothing.

    All ranks then take as many micro-batches, and those of one step together are the step of one process.

    Args:
        batches: all of them, in the same order on every rank. Trainer sets the epoch of a `batch_sampler` inside.
    """

    def __init__(self, batches: LengthBatches | MixedBatches, rank: int, count: int) -> None:
        self.batch_sampler, self.rank, self.count = batches, rank, count

    def set_epoch(self, epoch: int) -> None:
        """The order of this epoch comes next."""
        self.batch_sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of example numbers; the last may be empty."""
        taken = 0
        for place, batch in enumerate(self.batch_sampler):
            if place % self.count == self.rank:
                taken += 1
                yield batch
        if taken < len(self):
            yield []

    def __len__(self) -> int:
        """Batches of this rank in an epoch: the same on every rank."""
        return math.ceil(len(self.batch_sampler) / self.count)


class FirstTime(TrainerCallback):
    """The first rank's time, told after each move of the weights: between two tellings it stands still.

    Learning rate, temperature and end follow from it, and so are the same on every rank.
    """

    def __init__(self) -> None:
        self.told = 0.0

    def __call__(self) -> float:
        """Seconds, as told last."""
        return self.told

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Tell where it starts."""
        self.told = ranks.agreed(time.monotonic)

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Tell it before the next learning rate is set."""
        self.told = ranks.agreed(time.monotonic)


class _Together(nn.Module):
    """What DDP sees: all weights that train, and a forward pass that is whatever the trainer computes with them."""

    def __init__(self, student: nn.Module, maps: Sequence[nn.Module]) -> None:
        super().__init__()
        self.student, self.maps = student, nn.ModuleList(maps)

    def forward(self, compute: Any) -> Tensor:
        loss: Tensor = compute()
        return loss


class SharedTrainer(DistillTrainer):
    """`DistillTrainer` on one of several ranks, by DistributedDataParallel.

    Args: as DistillTrainer's; `arguments` accumulate this rank's share of a step. The pace is changed: its clock runs
        by the first rank's time, and on the others it asks for no checkpoint and reports nothing.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.write, self.pace.report = self.pace.report, self._report
        if ranks.rank():
            self.pace.checkpoint_seconds = math.inf
        if isinstance(self.pace.clock, Clock):
            first_time = FirstTime()
            self.pace.clock.now = first_time
            self.callback_handler.callbacks.insert(0, first_time)  # before the pace, which starts the clock

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """This rank's batches. Accelerate's own division would repeat the first ones where the last are missing."""
        return DataLoader(
            range(len(self.store)),  # type: ignore[arg-type]  # an item is its number, which `collate` looks up
            batch_sampler=Share(self.batches, ranks.rank(), ranks.count()),
            collate_fn=partial(_collate, self.store.examples),
            num_workers=self.args.dataloader_num_workers,
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """This micro-batch's part of the step's mean over positions, those of all ranks counted."""
        alone = super().compute_loss

        def compute() -> Tensor:
            if len(inputs["examples"]):
                return alone(self.student, inputs, return_outputs, num_items_in_batch)
            # Not of the head: where no rank's logits count, it must stay without a gradient, as in one process.
            return torch.stack([weight.sum() for weight in self._always()]).sum() * 0.0

        loss: Tensor = model(compute)
        return loss * ranks.count()  # DDP takes the mean of the gradients over ranks; these are parts of a sum

    def _wrap_model(
        self, model: nn.Module, training: bool = True, dataloader: DataLoader[Batch] | None = None
    ) -> nn.Module:
        together = _Together(self.student, list(self.match.projections.values()))
        # A head apart from the embedding learns nothing from a batch whose logits count nowhere.
        sometimes = any(
            weight.requires_grad for weight in {*self.student.parameters()} - {*body(self.student).parameters()}
        )
        return DistributedDataParallel(together, find_unused_parameters=sometimes)

    def store_flos(self) -> None:
        """Not counted: adding them up would make every checkpoint, which the first writes alone, the work of all."""

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """As in one process, where the projections are no part of the model."""
        return super()._clip_grad_norm(self.student)  # type: ignore[no-untyped-call]

    def _always(self) -> list[nn.Parameter]:
        """Weights that every batch teaches."""
        return [
            *(weight for weight in body(self.student).parameters() if weight.requires_grad),
            *self.match.parameters(),
        ]

    def _takes_gradients_as_they_come(self) -> bool:
        """DDP adds them up in the number format of the weights."""
        return False

    def _measures_shares(self) -> bool:
        """On the first rank, whose micro-batch is the step's first."""
        return ranks.rank() == 0 and super()._measures_shares()

    def _report(self, step: int, progress: float, seconds: float) -> None:
        """One line for all ranks."""
        meters = [self.meter] * ranks.count() if ranks.rank() == 0 else None
        distributed.gather_object(self.meter, meters)
        for other in (meters or [])[1:]:
            self.meter.add(other)
        if ranks.rank() == 0:
            self.write(step, progress, seconds)
        else:
            self.meter.take()


def _collate(examples: Sequence[Example], numbers: Sequence[int]) -> Batch:
    if numbers:
        return collate(examples, numbers)
    nothing = torch.zeros(0, dtype=torch.long)
    return dict.fromkeys(("input_ids", "rows", "labels", "shift_labels", "examples"), nothing)
