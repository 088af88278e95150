"""Stage `distill`: the healed student is trained on the teacher's signals.

In:  `prune/student`, `signals/` (training split), `vocab/`.
Out: `distill/student` (float16 checkpoint), `log.jsonl` (a line a step), `report.json`; `adapter/` where one is wanted.
Does not know: how the student was cut, GGUF, evaluation.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.distill import ranks
from potstill.progress import Task
from potstill.run import Run, begun_dtype, read_json, write_json, write_text
from potstill.storage import storage_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TrainingArguments

    from potstill.distill.companion import Companion
    from potstill.distill.meter import Meter
    from potstill.distill.trainer import DistillTrainer
    from potstill.recipe import Recipe
    from potstill.signals.store import SignalStore

__all__ = ["distill"]

CURVATURE = "curvature.safetensors"


def distill(run: Run, folder: Path) -> None:
    """Train; resumes from the newest whole checkpoint in `folder`.

    Several ranks call this together: all train, the first alone writes.
    """
    # Trainer imports it wherever it is installed, and it then misses a kernel that it would fetch from the Hub.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if ranks.started_alone():
        run.progress.say(
            "accelerate launch has started one process; for several: "
            "accelerate launch --multi_gpu --num_processes 2 -m potstill distill RUN"
        )
    storage = storage_of(run, "distill")
    if storage and ranks.rank() == 0:
        from potstill.distill.away import bring_back

        bring_back(storage, folder)
    if run.recipe.distill.adapter.category is not None and ranks.count() == 1:
        from potstill.distill.adapter import adapter_signals

        adapter_signals(run)  # before the student's hours, not behind them
    trained = None
    with ranks.joined(run.recipe.distill):
        # A student that has its report is finished: what was killed is the tidying behind it, or its adapter.
        if not ranks.agreed((folder / "report.json").exists):
            trained = train(run, folder, run.stage("prune") / "student", training_signals(run))
    if trained and ranks.rank() == 0:
        _keep(run, folder, *trained)
    del trained  # the optimiser's moments with it: an adapter may want the room
    if ranks.rank() == 0:
        _tidy(folder)
    if run.recipe.distill.adapter.category is not None and ranks.rank() == 0:
        from potstill.distill.adapter import train_adapter

        train_adapter(run, folder)


def training_signals(run: Run) -> SignalStore:
    """What the teacher thought at the answers that are trained on."""
    from potstill.signals.store import SignalStore

    return SignalStore(run.stage("signals"), "train")


def train(run: Run, folder: Path, start: Path, store: SignalStore, who: str = "student") -> tuple[DistillTrainer, Log]:
    """Train what `run.recipe.distill` lets move; goes on from the newest whole checkpoint in `folder`.

    Args:
        start: the plain checkpoint that it begins with. store: what it learns from. who: learns, for the bar.

    Returns: the trainer with its student, adapters not merged; the log.
    """
    import torch

    from potstill.distill.away import Away
    from potstill.distill.schedule import Clock, StepCount
    from potstill.distill.trained import load_weights, prepare_student
    from potstill.distill.trainer import Pace
    from potstill.distill.working import product_dtype
    from potstill.models.teacher import load_model

    section, arguments = run.recipe.distill, training_arguments(run.recipe, folder, _cut(run))
    dtype = product_dtype(arguments)
    checkpoint = ranks.agreed(partial(newest_checkpoint, folder))
    student = load_model(start, torch.float32)
    prepare_student(student, section)
    curvature = curvature_of(run, folder, student, store, dtype) if section.knows_curvature else {}
    if checkpoint:
        load_weights(student, checkpoint)
    clock = Clock(section.budget_minutes * 60) if section.budget_minutes else StepCount(total=1)
    log = Log(folder / "log.jsonl")
    with run.progress.task(f"the {who} learns", 1.0, "share") as task:
        log.task = task
        pace = Pace(clock, section.checkpoint_seconds, log.write)
        along = companions(run, folder, student, store, dtype, task.describe)
        trainer = _kind_of_trainer()(student, store, section, arguments, pace, run.recipe.seed, along, curvature)
        log.meter = trainer.meter
        if ranks.rank() == 0:
            log.keep_steps(int(checkpoint.name.split("-")[1]) if checkpoint else 0)
            if storage := storage_of(run, "distill"):
                trainer.add_callback(Away(storage, run.partial("distill"), task.describe))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer, log


def _kind_of_trainer() -> type[DistillTrainer]:
    """For this process alone, or for one of several."""
    from potstill.distill.shared import SharedTrainer
    from potstill.distill.trainer import DistillTrainer

    return SharedTrainer if ranks.count() > 1 else DistillTrainer


def _keep(run: Run, folder: Path, trainer: DistillTrainer, log: Log) -> None:
    """The finished student, and at last what is told of it."""
    import torch

    from potstill.distill.trained import merge
    from potstill.distill.working import product_dtype
    from potstill.models.checkpoint import save_checkpoint

    merge(trainer.student)
    # float16 values: the F16 file then holds exactly these weights, and so may be compared closely
    save_checkpoint(trainer.student, run.stage("vocab"), folder / "student", torch.float16, run.stamp(folder))
    dtype = str(product_dtype(trainer.args)).removeprefix("torch.")
    write_json(folder / "report.json", log.summary(trainer.store.rows) | {"dtype": dtype} | trainer.notes)


def _tidy(folder: Path) -> None:
    """What only a killed training needs goes."""
    for old in folder.glob("checkpoint-*"):
        shutil.rmtree(old)
    for scales in folder.glob("finish-*.safetensors"):  # needed to the end: a kill after `end()` goes on with them
        scales.unlink()
    (folder / CURVATURE).unlink(missing_ok=True)


def curvature_of(
    run: Run, folder: Path, student: PreTrainedModel, store: SignalStore, dtype: torch.dtype
) -> Mapping[str, torch.Tensor]:
    """How the inputs of the student's matrices spread as it starts; the first rank measures it once and keeps it.

    Args: as `companions`'; nothing of the student may have moved yet.
    """
    import torch

    from potstill.distill.curvature import Curvature, measure_curvature
    from potstill.models.examples import evenly

    path, section = folder / CURVATURE, run.recipe.distill

    def keep() -> None:
        if path.exists():
            return
        wanted = section.curvature
        sequences = [example.ids for example in evenly(store.examples, wanted.tokens)]
        kind = torch.float32 if dtype == torch.float16 else dtype
        with run.progress.task("what the layers read", 1.0, "share") as task:
            measure_curvature(student, sequences, section.batch_tokens, wanted.damping, kind, task).save(path)

    ranks.agreed(keep)
    return Curvature.load(path)


def companions(
    run: Run,
    folder: Path,
    student: PreTrainedModel,
    store: SignalStore,
    dtype: torch.dtype,
    tell: Callable[[str], None],
) -> list[Companion]:
    """What the recipe lets go along with the training, in the order in which it is asked.

    Args:
        folder: the stage's partial folder. student: prepared for training. store: the signals trained on.
        dtype: of the matrix products. tell: shows what is under way.
    """
    section = run.recipe.distill
    found: list[Companion] = []
    # The finish comes first: what the others write with the student then has the weights that ship.
    if section.finish.share:
        from potstill.distill.finish import Finish

        found.append(Finish(student, section.finish, folder))
    if section.on_policy.share:
        from potstill.distill.on_policy import open_on_policy

        found.append(open_on_policy(run, folder, student, store, dtype, tell))
    if section.consistency.weight:
        from potstill.distill.consistency import open_consistency

        found.append(open_consistency(run, folder, student, dtype, tell))
    return found


def _cut(run: Run) -> float:
    """Share of its base's body that the student lacks; all of it where the recipe's own rate makes it no matter."""
    if run.recipe.distill.learning_rate is not None:
        return 1.0
    return float(read_json(run.stage("prune") / "report.json")["cut"])


def training_arguments(recipe: Recipe, folder: Path, cut: float) -> TrainingArguments:
    """Trainer's settings; everything a user may choose comes from the recipe.

    Args:
        cut: share of the base's body that the student lacks.
    """
    import torch
    from transformers import TrainingArguments

    section, precision = recipe.distill, _precision(recipe, folder)
    arguments = TrainingArguments(
        output_dir=str(folder),
        # Under a budget the clock ends the training, and epochs are only counted.
        num_train_epochs=10**6 if section.budget_minutes else section.epochs,
        learning_rate=section.peak_rate(cut),
        weight_decay=section.weight_decay,
        max_grad_norm=section.gradient_clip,
        gradient_accumulation_steps=ranks.share_of(section.accumulation),
        optim="adamw_torch_fused",
        adam_beta2=section.beta2,
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=not torch.cuda.is_available(),
        ddp_backend=ranks.backend() if ranks.count() > 1 else None,
        save_strategy="no",
        save_total_limit=2,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=recipe.seed,
        remove_unused_columns=False,
        dataloader_num_workers=section.loader_workers,
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are several processes' (ranks), never DataParallel's
    return arguments


def _precision(recipe: Recipe, folder: Path) -> str:
    """The format of the matrix products. Raises: Problem for float16 on a processor."""
    import torch

    from potstill.problem import Problem

    wanted = recipe.distill.precision
    if wanted == "float16" and not torch.cuda.is_available():
        raise Problem(
            'distill.precision = "float16" needs a GPU: a processor multiplies in it without float32 sums, and '
            "gradients under 6e-8 vanish",
            'Use "bfloat16", which has the range of float32, or "fastest".',
        )
    return ranks.agreed(partial(begun_dtype, folder)) if wanted == "fastest" else wanted


def newest_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written whole; half-written ones are removed."""
    from potstill.models.checkpoint import read_header
    from potstill.problem import Problem

    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    for path in found:
        try:
            # Trainer writes its own state last, so a checkpoint that has it is whole.
            if (path / "trainer_state.json").exists() and read_header(path):
                json.loads((path / "trainer_state.json").read_text())
                return path
        except (Problem, json.JSONDecodeError):
            pass
        shutil.rmtree(path)
    return None


@dataclass
class Log:
    """A line a step, and the bar.

    Args:
        path: the JSONL file. task: the bar, advanced to the training's progress. meter: sums of the step.
    """

    path: Path
    task: Task | None = None
    meter: Meter | None = None
    shown: float = 0.0

    def keep_steps(self, steps: int) -> None:
        """Drop lines after the checkpoint that is resumed, and a torn last line."""
        lines = self.path.read_text().splitlines()[:steps] if self.path.exists() else []
        write_text(self.path, "".join(f"{line}\n" for line in lines))
        if lines:
            self.shown = json.loads(lines[-1])["progress"]
            if self.task is not None:
                self.task.resume(self.shown)

    def write(self, step: int, progress: float, seconds: float) -> None:
        """Note a step: every loss as a mean over its answer positions."""
        assert self.meter is not None and self.task is not None
        line = {"step": step, "progress": progress, "seconds": seconds, **self.meter.take()}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.task.describe(f"step {step}, loss {line['loss']:.3f}")
        self.task.advance(progress - self.shown)
        self.shown = progress

    def summary(self, rows: int) -> dict[str, float]:
        """Steps, tokens, tokens a second and passes over the answers."""
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        seconds, tokens = lines[-1]["seconds"], sum(line["tokens"] for line in lines)
        positions = sum(line["positions"] for line in lines)
        return {
            "steps": len(lines),
            "seconds": seconds,
            "answer_tokens": positions,
            "tokens": tokens,
            "tokens_per_second": tokens / seconds,
            "passes": positions / rows,
            "first_loss": lines[0]["loss"],
            "last_loss": lines[-1]["loss"],
        }
