"""What peers built on Transformers' Trainer have in common: batches, settings, the clock.

In:  a job, a student.
Out: collated batches, keyword arguments for TrainingArguments, a callback that tells steps and stops in time.
Does not know: losses, teachers. Runs in a peer's Python.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from telling import Job, Teller
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback

Row = dict[str, Any]
IGNORED = -100


def read_rows(job: Job) -> list[Row]:
    """Rows with `ids`, `start` and `messages`, in the order in which they are to be trained on."""
    return [json.loads(line) for line in Path(job["train"]).read_text(encoding="utf-8").splitlines()]


def collate(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask, labels [B, T], padded on the right; labels hold the answer alone, not shifted."""
    longest = max(len(row["ids"]) for row in rows)
    ids, mask, labels = [], [], []
    for row in rows:
        missing = longest - len(row["ids"])
        ids.append(row["ids"] + [0] * missing)
        mask.append([1] * len(row["ids"]) + [0] * missing)
        labels.append([IGNORED] * row["start"] + row["ids"][row["start"] :] + [IGNORED] * missing)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}


def common_arguments(job: Job) -> dict[str, Any]:
    """The same for every peer: our learning rate and optimiser, nothing that costs time and trains nothing."""
    return {
        "output_dir": job["scratch"],
        "max_steps": job["steps"],
        "per_device_train_batch_size": job["batch"],
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "linear",
        "warmup_steps": round(job["warmup"] * job["steps"]),
        "optim": "adamw_torch_fused",
        "adam_beta2": job["beta2"],
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": job["dtype"] == "bfloat16",
        "use_cpu": True,
        "gradient_checkpointing": False,
        "remove_unused_columns": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": job["seed"],
    }


def told(job: Job, loss: str, teacher: str) -> dict[str, str]:
    """The settings that matter, for the table."""
    return {
        "teacher": teacher,
        "loss": loss,
        "learning rate": f"{job['learning_rate']:g}, linear, warm-up {job['warmup']:g}",
        "optimiser": f"AdamW fused, β₂ {job['beta2']:g}, clip 1",
        "dtype": f"{job['dtype']} over float32 weights",
        "batch": f"{job['batch']} answers",
    }


def run_to_the_end(trainer: Any, job: Job) -> None:
    """Quietly; keeps the student where the job says so."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    if job["save"]:
        trainer.save_model(job["save"])


class Pacing(TrainerCallback):
    """Tells every step; with minutes in the job, the clock sets the learning rate and ends the training, as in ours.

    Args:
        student: watched for the tokens that it reads, padding left out.
    """

    def __init__(self, job: Job, teller: Teller, student: PreTrainedModel) -> None:
        self.teller, self.tokens = teller, 0
        self.limit = None if job["minutes"] is None else 60 * job["minutes"]
        self.steps, self.warmup = 0, job["warmup"]
        student.register_forward_pre_hook(self._read, with_kwargs=True)

    def _read(self, module: Any, arguments: Any, named: dict[str, Any]) -> None:
        mask = named.get("attention_mask")
        self.tokens += int(named["input_ids"].numel() if mask is None else mask.sum())

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Models are loaded."""
        self.teller.start()

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """A step is done; another one that would end nearer beyond the limit than before it is not begun."""
        self.steps += 1
        self.teller.step(self.tokens)
        used = self.teller.seconds()
        if self.limit is None:
            return
        rate = args.learning_rate * share_of_rate(used / self.limit, self.warmup)
        for group in optimizer.param_groups:  # its scheduler, which counts steps, has set it just before
            group["lr"] = rate
        if used + used / self.steps / 2 >= self.limit:
            control.should_training_stop = True


def share_of_rate(progress: float, warmup: float) -> float:
    """Linear: up to 1 over the warm-up, down to 0 at the end; progress and warm-up are shares of the time."""
    return min(progress / warmup if warmup else 1.0, max(0.0, (1 - progress) / (1 - warmup)))
