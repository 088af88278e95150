"""The training loop: Transformers' Trainer with our loss, our schedule, and checkpoints without pickle.

In:  a student, a signal store, the recipe's section.
Out: the trained student, a line of log a step.
Does not know: run folders, other stages, the terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState

from potstill.distill.batches import ExampleIndices, LengthBatches, collate
from potstill.distill.hidden import HiddenMatch
from potstill.distill.objective import head_loss
from potstill.distill.schedule import Clock, StepCount, learning_rate_factor, temperature_at
from potstill.distill.state import load_state, save_state
from potstill.losses import hidden_cosine
from potstill.models.anatomy import body, head_weight
from potstill.recipe import DistillSection
from potstill.signals.store import SignalStore

STATE = "state.safetensors"
Batch = dict[str, Tensor]


@dataclass
class Meter:
    """Sums of one step's micro-batches: what a log line is made of."""

    sums: dict[str, float] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        """Add to the sums of this step."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        """The sums; they start again at 0."""
        taken, self.sums = self.sums, {}
        return taken


class Pace(TrainerCallback, ExportableState):
    """Time and steps: moves the clock, asks for checkpoints, ends the training, reports each step.

    Args:
        clock: by wall-clock time or by steps. checkpoint_seconds: between checkpoints.
        report: called after each step with step, progress and seconds used.
    """

    def __init__(
        self, clock: Clock | StepCount, checkpoint_seconds: float, report: Callable[[int, float, float], None]
    ) -> None:
        self.clock, self.checkpoint_seconds, self.report = clock, checkpoint_seconds, report
        self.used_before, self.started, self.saved = 0.0, 0.0, 0.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: seconds used so far."""
        return {"args": {}, "attributes": {"used_before": self._used()}}

    def _used(self) -> float:
        return self.used_before + (time.monotonic() - self.started if self.started else 0.0)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock where the checkpoint left it."""
        self.started = self.saved = time.monotonic()
        if isinstance(self.clock, Clock):
            self.clock.used_before = self.used_before
            self.clock.start()
        else:
            self.clock.done = state.global_step

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count the step; save or stop if it is time."""
        if isinstance(self.clock, Clock):
            self.clock.steps += 1
            control.should_training_stop |= self.clock.is_over()
        if time.monotonic() - self.saved >= self.checkpoint_seconds:
            control.should_save, self.saved = True, time.monotonic()
        self.report(state.global_step, self.clock.progress(), self._used())


class DistillTrainer(Trainer):
    """Trainer whose loss is T²·KL on replayed logits plus the hidden states' cosine.

    Answer rows are selected before the LM head, so that no logit is computed that does not teach.

    Args:
        student: its head may be tied. store: signals of the training split. section: the recipe's [distill].
        arguments: Trainer's own. pace: the clock and what it asks for. seed: order of the batches.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        store: SignalStore,
        section: DistillSection,
        arguments: TrainingArguments,
        pace: Pace,
        seed: int,
    ) -> None:
        self.student, self.store, self.section, self.pace, self.meter = student, store, section, pace, Meter()
        self.batches = LengthBatches([len(example.ids) for example in store.examples], section.batch_tokens, seed)
        self.match = HiddenMatch.between(student, store, section.hidden_pairs)
        super().__init__(model=student, args=arguments, callbacks=[pace])
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True  # the loss is divided by the step's label count, not by micro-batches

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """Batches by length."""
        loader: DataLoader[Batch] = DataLoader(
            ExampleIndices(len(self.store)),  # type: ignore[arg-type]
            batch_sampler=self.batches,
            collate_fn=partial(collate, self.store.examples),
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's optimiser; the learned projections of the hidden loss train along."""
        optimiser = super().create_optimizer(model)
        if self.match.parameters():
            optimiser.add_param_group({"params": self.match.parameters(), "weight_decay": 0.0})
        return optimiser

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The learning rate over the clock's progress; the first steps only fill the optimiser's moments."""
        clock, section = self.pace.clock, self.section
        if isinstance(clock, StepCount):
            clock.total = num_training_steps

        def factor(step: int) -> float:
            if isinstance(clock, StepCount):
                clock.done = step
            return learning_rate_factor(clock.progress(), section.still, section.warmup)

        chosen = optimizer or self.optimizer
        assert chosen is not None
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(chosen, factor)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Mean over the step's answer positions, so that accumulation equals one big batch."""
        positions = inputs["labels"].numel()
        count = float(num_items_in_batch if num_items_in_batch is not None else positions)
        numbers = inputs["examples"].tolist()
        states, middle = self._student_states(model, inputs)
        logit_sum = self._logit_loss(model, states, numbers)
        loss = self.section.logit_weight * logit_sum
        parts = {"kl": float(logit_sum.detach())}
        for pair in self.match.pairs:
            mapped = self.match.to_teacher_width(pair, middle[pair.student])
            cosine = hidden_cosine(mapped, self.store.layer_states(numbers, pair.teacher)).sum()
            loss = loss + pair.weight * cosine
            parts[f"hidden_{pair.student}_{pair.teacher}"] = float(cosine.detach())
        self.meter.add(positions=positions, tokens=inputs["input_ids"].numel(), loss=float(loss.detach()), **parts)
        scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return loss * scale / count

    def _student_states(self, model: nn.Module, inputs: Batch) -> tuple[Tensor, dict[int, Tensor]]:
        """The last state [N, d] at the answer rows, and the middle states of paired layers, [N, d] each."""
        wanted = bool(self.match.pairs)
        ids = inputs["input_ids"]
        # Accelerate puts autocast around the whole model's forward, which is not what is called here.
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.args.bf16):
            output = body(self.accelerator.unwrap_model(model))(
                input_ids=ids, use_cache=False, output_hidden_states=wanted
            )
        rows = inputs["rows"]

        def at_rows(states: Tensor) -> Tensor:
            return states.flatten(0, 1)[rows]

        middle = {pair.student: at_rows(output.hidden_states[pair.student]) for pair in self.match.pairs}
        return at_rows(output.last_hidden_state), middle

    def _logit_loss(self, model: nn.Module, states: Tensor, numbers: list[int]) -> Tensor:
        teacher = self.store.rows_of(numbers)
        temperature = temperature_at(self.section.temperature, self.pace.clock.progress())

        def loss(logits: Tensor, rows: slice) -> Tensor:
            return teacher.divergence(logits, rows, temperature)

        dtype = torch.bfloat16 if self.args.bf16 else torch.float32
        weight = head_weight(self.accelerator.unwrap_model(model))
        return head_loss(states, weight, loss, self.section.chunk_rows, dtype)

    # Checkpoints: Trainer would pickle optimiser, scheduler and random states; ours are one safetensors file.

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.student.save_pretrained(output_dir or str(self.args.output_dir))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        assert self.optimizer is not None
        save_state(self.optimizer, self.match.state(), Path(output_dir) / STATE)

    def _save_rng_state(self, output_dir: str) -> None:
        """Kept with the optimiser's state."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.optimizer is not None and self.lr_scheduler is not None:
            self.match.load(load_state(self.optimizer, Path(checkpoint) / STATE))
            self.lr_scheduler.last_epoch = self.state.global_step

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Loaded with the optimiser's state."""
