"""The training loop: Transformers' Trainer with our loss, our schedule, and checkpoints without pickle.

In:  a student, a signal store, the recipe's section.
Out: the trained student, a line of log a step.
Does not know: run folders, other stages, the terminal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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

from potstill.distill.attention import AttentionMatch
from potstill.distill.batches import LengthBatches, collate
from potstill.distill.companion import Batch, Companion
from potstill.distill.hidden import HiddenMatch
from potstill.distill.meter import Meter
from potstill.distill.mixing import MixedBatches
from potstill.distill.objective import Lesson, head_losses, position_weights
from potstill.distill.optimiser import NaturalAdamW
from potstill.distill.schedule import Clock, StepCount, learning_rate_factor, temperature_at
from potstill.distill.shares import gradient_shares
from potstill.distill.state import load_state, save_state
from potstill.distill.tail import kept_positions
from potstill.distill.trained import load_weights, save_weights
from potstill.distill.working import product_dtype, read_in
from potstill.losses import hidden_cosine
from potstill.models.anatomy import body, head_weight
from potstill.models.attention import attention_maps
from potstill.problem import Problem
from potstill.recipe import DistillSection
from potstill.signals.formats import Rows
from potstill.signals.store import SignalStore

STATE = "state.safetensors"
_CALMER = "Lower distill.learning_rate or distill.gradient_clip, and run again."


class Pace(TrainerCallback, ExportableState):
    """Time and steps: moves the clock, asks for checkpoints, ends the training, reports each step.

    Args:
        clock: by wall-clock time or by steps. checkpoint_seconds: between checkpoints.
        report: called after each step with its number, the share of the training that is behind, and seconds used.
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
        """Start the clock where the checkpoint left it: Trainer keeps what `state` says, but doesn't give it back."""
        kept: Any = state.stateful_callbacks  # annotated as what it is made from, not as what it holds
        self.used_before = float(kept[type(self).__name__]["attributes"]["used_before"])
        self.started = self.saved = time.monotonic()
        if isinstance(self.clock, Clock):
            self.clock.used_before = self.used_before
            self.clock.start()
        else:
            self.clock.done = state.global_step

    def on_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count the step, before Trainer asks for the learning rate of the next one."""
        if isinstance(self.clock, Clock):
            self.clock.steps += 1

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save or stop if it is time."""
        if isinstance(self.clock, Clock):
            control.should_training_stop |= self.clock.is_over()
        if time.monotonic() - self.saved >= self.checkpoint_seconds:
            control.should_save, self.saved = True, time.monotonic()
        self.report(state.global_step, self.clock.behind(), self._used())


class Going(TrainerCallback):
    """Tells the companions where the training is, and keeps what they say at its end."""

    def __init__(self, companions: Sequence[Companion], clock: Clock | StepCount) -> None:
        self.companions, self.clock = tuple(companions), clock
        self.first, self.progress = True, 0.0
        """Whether no micro-batch of this step has been seen yet; the same progress for all of them."""
        self.notes: dict[str, Any] = {}

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A step begins."""
        self.first, self.progress = True, self.clock.progress()
        for companion in self.companions:
            companion.begin_step(state.global_step, self.progress)

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The weights are about to move."""
        for companion in self.companions:
            companion.before_update()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """All are asked, in their order."""
        for companion in self.companions:
            self.notes |= companion.end()

    def batch(self) -> tuple[Batch, Rows] | None:
        """Of the first companion that has one."""
        return next((found for companion in self.companions if (found := companion.batch()) is not None), None)

    def losses(self) -> dict[str, Tensor]:
        """Of all companions, on the first micro-batch of a step."""
        first, self.first = self.first, False
        return {name: loss for one in self.companions for name, loss in one.losses().items()} if first else {}


class Seen(NamedTuple):
    """What the student held at the answer positions: states [N, d], middle layers [N, d], attention maps [B, T, T]."""

    states: Tensor
    middle: dict[int, Tensor]
    maps: dict[int, Tensor]


class DistillTrainer(Trainer):
    """Trainer whose loss is the recipe's logit losses plus the distances of matched layers.

    Answer rows are selected before the LM head, so that no logit is computed that does not teach.

    Args:
        student: its head may be tied. store: signals of the training split. section: the recipe's [distill].
        arguments: Trainer's own. pace: the clock and what it asks for. seed: order of the batches, masked tails.
        companions: what goes along. After training, `notes` holds what they said at its end.
        curvature: name of a matrix → the inverse of its inputs' second moments; the others move by plain AdamW.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        store: SignalStore,
        section: DistillSection,
        arguments: TrainingArguments,
        pace: Pace,
        seed: int,
        companions: Sequence[Companion] = (),
        curvature: Mapping[str, Tensor] | None = None,
    ) -> None:
        store = store.on(arguments.device)
        self.student, self.store, self.section, self.pace, self.meter = student, store, section, pace, Meter()
        self.seed, self.going, self.curvature = seed, Going(companions, pace.clock), curvature or {}
        self.batches = self._batches()
        self.match = HiddenMatch.between(student, store, section.hidden_pairs)
        for projection in self.match.projections.values():
            projection.to(arguments.device)
        self.attention = AttentionMatch.between(student, store, section.attention_pairs)
        super().__init__(model=student, args=arguments, callbacks=[pace, self.going])
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True  # the loss is divided by the step's label count, not by micro-batches

    @property
    def notes(self) -> dict[str, Any]:
        """Lines for the report from the companions."""
        return self.going.notes

    def _batches(self) -> LengthBatches | MixedBatches:
        def compose(lengths: Sequence[int]) -> LengthBatches:
            section = self.section
            return LengthBatches(lengths, section.batch_tokens, self.seed, section.batch_answers)

        examples, share = self.store.examples, self.section.joint.share
        if share is None:
            return compose([len(example.ids) for example in examples])
        return MixedBatches(examples, share, lambda lengths: compose(lengths).batches, self.seed)

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """Batches by length."""
        loader: DataLoader[Batch] = DataLoader(
            range(len(self.store)),  # type: ignore[arg-type]  # an item is its number, which `collate` looks up
            batch_sampler=self.batches,
            collate_fn=partial(collate, self.store.examples),
            num_workers=self.args.dataloader_num_workers,
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's AdamW, natural where the curvature is known; the hidden loss's learned projections train along."""
        optimiser = super().create_optimizer(model)
        if self.curvature:
            weights = {name: weight for name, weight in self.student.named_parameters() if name in self.curvature}
            inverses = {weight: self.curvature[name].to(weight.device) for name, weight in weights.items()}
            self.optimizer = optimiser = NaturalAdamW(optimiser.param_groups, inverses)
            if self._takes_gradients_as_they_come():
                for weight, inverse in inverses.items():
                    weight.grad_dtype = inverse.dtype  # before PyTorch 2.10 a plain attribute, which changes nothing
        if self.match.parameters():
            rates = {"lr": self.args.learning_rate, "betas": (self.args.adam_beta1, self.args.adam_beta2)}
            optimiser.add_param_group({"params": self.match.parameters(), "weight_decay": 0.0, **rates})
        return optimiser

    def _takes_gradients_as_they_come(self) -> bool:
        """In bfloat16, which the optimiser rounds them to anyway: only a companion's loss is added to them before."""
        return bool(self.args.bf16) and self.args.gradient_accumulation_steps == 1

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
            return learning_rate_factor(clock.middle(), section.still, section.warmup, section.decay)

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
        """Mean over the step's answer positions, so that accumulation equals one big batch; then the companions'.

        A companion's batch weighs as much as the one it takes the place of: its mean counts for that one's positions.
        """
        planned = inputs["labels"].numel()
        count = float(num_items_in_batch if num_items_in_batch is not None else planned)
        if self.going.first:  # Trainer empties the gradients of the student alone
            self.match.empty_gradients()
        measured = self._measures_shares()
        replaced = self.going.batch()
        inputs, teacher = (self._prepare_inputs(replaced[0]), replaced[1]) if replaced else (inputs, None)
        positions = inputs["labels"].numel()
        seen = self._student_sees(model, inputs, matched=teacher is None)
        lesson = self._lesson(inputs, teacher)
        terms = {"logits": self._logit_loss(model, seen.states, lesson)}
        if teacher is None:
            terms |= self._matched(seen, inputs)
        scale = planned / positions / count
        loss = scale * torch.stack(list(terms.values())).sum()
        extra = self.going.losses()
        if measured:
            del terms["logits"]
            terms |= {n: self._logit_loss(model, seen.states, lesson.only(n), quiet=True) for n in lesson.weights}
            self._note_shares({name: scale * term for name, term in terms.items()} | extra)
        loss = loss + sum(extra.values()) if extra else loss
        told = {"loss": float(loss.detach())} | {name: float(value.detach()) for name, value in extra.items()}
        self._require_numbers(told)
        self.meter.count(positions=positions, tokens=inputs["input_ids"].numel(), **told)
        return loss

    def _require_numbers(self, told: Mapping[str, float]) -> None:
        """Raises: Problem where a loss is none, before a checkpoint of such weights takes the place of a good one.

        In float16 the loss scaler leaves such a step out.
        """
        broken = [name for name, value in told.items() if not math.isfinite(value)]
        if broken and not self.args.fp16:
            raise Problem(
                f"step {self.state.global_step + 1}: the loss is no number any more ({', '.join(broken)})",
                _CALMER,
            )

    def _measures_shares(self) -> bool:
        """Once every so many steps, on their first micro-batch."""
        every = self.section.losses.shares_every
        return self.going.first and bool(every) and self.state.global_step % every == 0

    def _note_shares(self, losses: dict[str, Tensor]) -> None:
        trained = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        shares = gradient_shares(losses, [*trained, *self.match.parameters()])
        self.meter.count(**{f"share_{name}": share for name, share in shares.items()})

    def _student_sees(self, model: nn.Module, inputs: Batch, matched: bool) -> Seen:
        """One forward pass without the head; middle layers and maps only where they are matched."""
        ids, rows = inputs["input_ids"], inputs["rows"]
        pairs = self.match.pairs if matched else ()
        student = self.accelerator.unwrap_model(model)
        with attention_maps(student, self.attention.layers if matched else ()) as maps:
            output = read_in(product_dtype(self.args), body(student), ids, output_hidden_states=bool(pairs))

        def at_rows(states: Tensor) -> Tensor:
            return states.flatten(0, 1)[rows]

        middle = {pair.student: at_rows(output.hidden_states[pair.student]) for pair in pairs}
        return Seen(at_rows(output.last_hidden_state), middle, maps)

    def _matched(self, seen: Seen, inputs: Batch) -> dict[str, Tensor]:
        """Weighted sums over positions of the distances between paired layers, by name."""
        numbers, rows, terms = inputs["examples"].tolist(), inputs["rows"], {}
        for pair in self.match.pairs:
            mapped = self.match.to_teacher_width(pair, seen.middle[pair.student])
            cosine = hidden_cosine(mapped, self.store.layer_states(numbers, pair.teacher)).sum()
            terms[f"hidden_{pair.student}_{pair.teacher}"] = pair.weight * cosine
            self.meter.mean(f"hidden_{pair.student}_{pair.teacher}", float(cosine.detach()), len(rows))
        for look in self.attention.pairs:
            distance = self.attention.distance(look, seen.maps, rows, numbers).sum()
            terms[f"attention_{look.student}_{look.teacher}"] = look.weight * distance
            self.meter.mean(f"attention_{look.student}_{look.teacher}", float(distance.detach()), len(rows))
        return terms

    def _lesson(self, inputs: Batch, teacher: Rows | None) -> Lesson:
        """What the logits are trained on. The student's own text is no text to imitate: no cross entropy there."""
        ids, rows, section = inputs["input_ids"], inputs["rows"], self.section
        numbers, own = inputs["examples"].tolist(), teacher is not None
        thought = teacher if teacher is not None else self.store.rows_of(numbers)
        kept = kept_positions(rows, ids.shape[1], numbers, section.tail, self.seed, self.state.global_step)
        marks = torch.tensor([not own and self.store.examples[number].given for number in numbers])
        given = marks[rows.cpu() // ids.shape[1]]
        cross = 0.0 if own else section.losses.cross_entropy
        weights = position_weights(thought.weights(section.losses), cross, section.joint, given, kept)
        temperature = temperature_at(section.temperature, self.going.progress)
        placed = {name: weight.to(ids.device) for name, weight in weights.items()}
        return Lesson(thought, inputs["labels"], temperature, section.losses, placed)

    def _logit_loss(self, model: nn.Module, states: Tensor, lesson: Lesson, quiet: bool = False) -> Tensor:
        """Weighted sum over positions; unless `quiet`, each loss goes into the log as a mean over where it counts."""
        weight = head_weight(self.accelerator.unwrap_model(model))
        total, sums = head_losses(states, weight, lesson, self.section.chunk_rows, product_dtype(self.args))
        for name, value in ({} if quiet else sums).items():
            self.meter.mean(name, float(value), int((lesson.weights[name] != 0).sum()))
        return total

    # Checkpoints: Trainer would pickle optimiser, scheduler and random states; ours are one safetensors file.

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Raises: Problem where a weight is no number: two such checkpoints would push out the last good one."""
        if not all(bool(weight.isfinite().all()) for weight in self.student.parameters() if weight.requires_grad):
            raise Problem(f"step {self.state.global_step}: the weights are no numbers any more", _CALMER)
        save_weights(self.student, Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_weights(self.student, Path(resume_from_checkpoint))

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
