"""Soup trains: `task: distill`, its teacher live.

In:  a training job.
Out: steps, the trained checkpoint with its adapter merged.
Does not know: potstill. Runs in Soup's own Python.

Soup distils into an adapter (LoRA) with half cross entropy and half KL; neither can be chosen otherwise. What belongs
to an adapter (rank, learning rate) is left at its defaults. On a processor it computes in the checkpoints' own dtype.
Its command is `soup train soup.yaml`; the wrapper behind it is called here, so that rows come in the common order and
every step is told.
"""

from __future__ import annotations

from pathlib import Path

from hf_training import Pacing, read_rows
from soup_cli.config.loader import load_config_from_string
from soup_cli.trainer.distill import DistillTrainerWrapper
from telling import Job, Teller, serve, versions
from transformers import logging


def main(job: Job, teller: Teller) -> None:
    """Train, merge, save where the job says so."""
    logging.set_verbosity_error()
    teller.tell("versions", **versions("soup-cli", "torch", "transformers", "peft"))
    config = load_config_from_string(recipe(job))
    wrapper = DistillTrainerWrapper(config, device="cpu")
    wrapper.setup({"train": [{"messages": row["messages"]} for row in read_rows(job)]})
    training = config.training
    teller.tell(
        "settings",
        teacher="live",
        loss="½ cross entropy + ½ forward KL, T = 1, answers only",
        trained=f"LoRA, rank {training.lora.r}, on {wrapper.model.dtype} weights".replace("torch.", ""),
        **{"learning rate": f"{training.lr:g} (its default), {training.scheduler}, warm-up {training.warmup_ratio:g}"},
        optimiser=f"{training.optimizer}, clip {training.max_grad_norm:g}",
        batch=f"{training.batch_size} answers",
    )
    trainer = wrapper.trainer
    trainer.args.train_sampling_strategy = "sequential"
    trainer.args.disable_tqdm = True
    trainer.add_callback(Pacing(job, teller, wrapper.model))
    wrapper.train()
    if job["save"]:
        wrapper.model.merge_and_unload().save_pretrained(job["save"])
        wrapper.tokenizer.save_pretrained(job["save"])


def recipe(job: Job) -> str:
    """Its configuration file: what is the same for all, and nothing that costs time and trains nothing."""
    return f"""
base: {job["student"]}
task: distill
backend: transformers
data:
  train: {job["train"]}
  max_length: {job["max_length"]}
training:
  teacher_model: {job["teacher"]}
  distill_divergence: forward_kl
  distill_temperature: 1.0
  epochs: 1
  batch_size: {job["batch"]}
  gradient_accumulation_steps: 1
  warmup_ratio: {job["warmup"]}
  scheduler: linear
  optimizer: adamw_torch_fused
  gradient_checkpointing: false
  logging_steps: {job["steps"] + 1}
  save_steps: {job["steps"] + 1}
  seed: {job["seed"]}
output: {Path(job["scratch"]).as_posix()}
"""


if __name__ == "__main__":
    serve(main)
