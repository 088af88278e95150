"""potstill trains: the student learns from kept signals.

In:  a training job.
Out: steps, the trained checkpoint.
Does not know: peers. Runs in potstill's own Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch
from telling import Job, Teller, serve, versions
from transformers import logging

from potstill.distill import Log, training_arguments
from potstill.distill.batches import LengthBatches
from potstill.distill.schedule import Clock, StepCount
from potstill.distill.trainer import DistillTrainer, Pace
from potstill.machine import bound_product_caches, freed_memory_kept
from potstill.models.checkpoint import save_checkpoint
from potstill.models.teacher import load_model
from potstill.progress import Silent
from potstill.recipe import DistillSection, Recipe, validate_recipe
from potstill.run import read_json
from potstill.signals.store import SignalStore


def main(job: Job, teller: Teller) -> None:
    """Train on the kept signals, by steps or by the clock; save where the job says so."""
    logging.set_verbosity_error()
    bound_product_caches()
    teller.tell("versions", **versions("potstill", "torch", "transformers", "accelerate"))
    folder = Path(job["scratch"])
    folder.mkdir(parents=True, exist_ok=True)
    student = load_model(Path(job["student"]), torch.float32)
    store = SignalStore(Path(job["store"]), "train")
    recipe = validate_recipe(read_json(Path(job["recipe"])), job["recipe"])
    recipe = recipe.model_copy(update={"seed": job["seed"], "distill": plain_section(job)})
    arguments = training_arguments(recipe, folder, 1.0)
    if job["minutes"] is None:
        arguments = replace(arguments, max_steps=job["steps"])
    lengths = lengths_in_order(store, recipe)
    tokens = 0

    def report(step: int, progress: float, seconds: float) -> None:
        nonlocal tokens
        tokens += next(lengths)
        log.write(step, progress, seconds)
        teller.step(tokens)

    clock = Clock(60 * job["minutes"]) if job["minutes"] else StepCount(1)
    log = Log(folder / "log.jsonl")
    log.keep_steps(0)
    trainer = DistillTrainer(student, store, recipe.distill, arguments, Pace(clock, 1e9, report), job["seed"])
    log.meter = trainer.meter
    teller.tell("settings", **told(recipe.distill))
    with freed_memory_kept(), Silent().task("", 1.0, "share") as log.task:
        teller.start()
        trainer.train()
    if job["save"]:
        save_checkpoint(student, Path(job["student"]), Path(job["save"]), torch.float32, "")


def plain_section(job: Job) -> DistillSection:
    """What every peer does too: forward KL at T = 1 on the answers, full weights, AdamW, the same learning rate."""
    return DistillSection.model_validate(
        {
            "budget_minutes": job["minutes"],
            "batch_answers": job["batch"],
            "learning_rate": job["learning_rate"],
            "warmup": job["warmup"],
            "optimiser": "adamw",
            "precision": job["dtype"],
            "beta2": job["beta2"],
        }
    )


def told(section: DistillSection) -> dict[str, str]:
    """The settings that matter, for the table."""
    return {
        "teacher": "kept signals",
        "loss": "forward KL, T = 1, answers only",
        "learning rate": f"{section.learning_rate:g}, {section.decay}, warm-up {section.warmup:g}",
        "optimiser": f"AdamW fused, β₂ {section.beta2:g}, clip {section.gradient_clip:g}",
        "dtype": f"{section.precision} over float32 weights",
        "batch": f"{section.batch_answers} answers",
    }


def lengths_in_order(store: SignalStore, recipe: Recipe) -> Iterator[int]:
    """Tokens of each batch, padding left out, epoch after epoch."""
    lengths = [len(example.ids) for example in store.examples]
    order = LengthBatches(lengths, recipe.distill.batch_tokens, recipe.seed, recipe.distill.batch_answers)
    for epoch in count():
        order.set_epoch(epoch)
        for numbers in order:
            yield sum(lengths[number] for number in numbers)


if __name__ == "__main__":
    serve(main)
