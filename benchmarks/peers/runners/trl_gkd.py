"""TRL trains: `GKDTrainer` with its teacher live, on the given answers.

In:  a training job.
Out: steps, the trained checkpoint.
Does not know: potstill. Runs in TRL's own Python.

TRL's `DistillationTrainer` writes its own answers and takes no given ones; `GKDTrainer` with lmbda = 0 trains on the
given ones, and beta = 0 makes its loss the forward KL (at T = 1: its temperature is for sampling alone).
"""

from __future__ import annotations

import torch
from datasets import Dataset
from hf_training import Pacing, collate, common_arguments, read_rows, run_to_the_end, told
from telling import Job, Teller, serve, versions
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, logging
from trl.experimental.gkd import GKDConfig, GKDTrainer


def main(job: Job, teller: Teller) -> None:
    """Train, save where the job says so."""
    logging.set_verbosity_error()
    teller.tell("versions", **versions("trl", "torch", "transformers", "accelerate"))
    teller.tell("settings", **told(job, "GKD, lmbda 0, beta 0: forward KL, T = 1, answers only", "live"))
    student = AutoModelForCausalLM.from_pretrained(job["student"], dtype=torch.float32)
    trainer = GKDTrainer(
        model=student,
        teacher_model=AutoModelForCausalLM.from_pretrained(job["teacher"], dtype=getattr(torch, job["dtype"])),
        args=GKDConfig(
            **common_arguments(job),
            max_length=job["max_length"],
            train_sampling_strategy="sequential",
            lmbda=0.0,
            beta=0.0,
            temperature=1.0,
        ),
        data_collator=collate,
        train_dataset=Dataset.from_list(read_rows(job)),
        processing_class=PreTrainedTokenizerFast.from_pretrained(job["student"]),
        callbacks=[Pacing(job, teller, student)],
    )
    run_to_the_end(trainer, job)


if __name__ == "__main__":
    serve(main)
