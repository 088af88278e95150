"""potstill reads, writes and judges.

In:  a job: `collect` (the teacher reads, signals are kept), `write` (a student answers questions) or `evaluate` (how
     close any checkpoint is to the teacher on held-out answers: the one judge of all trainers).
Out: seconds and tokens; the signal store; what was measured.
Does not know: peers. Runs in potstill's own Python.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from telling import Job, Teller, serve, versions
from transformers import logging

from potstill.machine import bound_product_caches, freed_memory_kept
from potstill.models.anatomy import head_weight
from potstill.models.examples import Example
from potstill.models.teacher import load_model
from potstill.progress import Silent
from potstill.recipe import validate_recipe
from potstill.run import read_json, write_json
from potstill.signals.collect import Source, collect_signals
from potstill.signals.store import HEAD, INDEX, SignalStore, StoreFormat

SHARD_ANSWERS = 40


def main(job: Job, teller: Teller) -> None:
    """One of the three."""
    logging.set_verbosity_error()
    bound_product_caches()
    teller.tell("versions", **versions("potstill", "torch", "transformers", "xllamacpp"))
    {"collect": collect, "write": write, "evaluate": evaluate}[job["do"]](job, teller)


def collect(job: Job, teller: Teller) -> None:
    """The teacher reads every text of `job["texts"]` (split → file); the store lies in `job["store"]`."""
    from safetensors.torch import save_file

    folder = Path(job["store"])
    shutil.rmtree(folder, ignore_errors=True)  # shards that are there would not be read again
    folder.mkdir(parents=True)
    section = validate_recipe(read_json(Path(job["recipe"])), job["recipe"]).signals
    model = load_model(Path(job["teacher"]), getattr(torch, job["dtype"]))
    head = head_weight(model).detach()
    form = StoreFormat(
        "hidden", section.precision, section.group, model.config.hidden_size, len(head), (), (), "cut teacher"
    )
    source = Source(model, None, head, form, 0, job["batch_tokens"])
    settings = {"kept": f"last hidden state, {section.precision}, a scale for {section.group}", "dtype": job["dtype"]}
    teller.tell("settings", **settings, **{"positions read at once": job["batch_tokens"]})
    texts = {split: read_examples(Path(path)) for split, path in job["texts"].items()}
    save_file({"head": head.clone()}, folder / HEAD)
    shards, done = {}, 0
    teller.start()
    for split, examples in texts.items():
        with freed_memory_kept(), Silent().task("", None, "") as task:
            shards[split] = collect_signals(source, split, examples, SHARD_ANSWERS, folder, task)
        done += sum(len(example.ids) for example in examples)
        teller.step(done)
    write_json(folder / INDEX, {"formats": {split: asdict(form) for split in texts}, "shards": shards})
    size = sum((folder / name).stat().st_size for names in shards.values() for name in names)
    rows = sum(example.rows for examples in texts.values() for example in examples)
    teller.tell("disk", bytes_per_token=size / rows)


def write(job: Job, teller: Teller) -> None:
    """A GGUF answers the questions, one at a time, greedily; measured by `potstill.models.speed` in its process."""
    from potstill.models.engine import Threads
    from potstill.models.speed import measure

    threads = Threads(**job["threads"])
    teller.tell("settings", file=Path(job["gguf"]).name, threads=f"{threads.decode} write, {threads.prefill} read")
    sample = measure(
        Path(job["gguf"]), threads, job["conversations"], new_tokens=job["new_tokens"], context=job["context"]
    )
    teller.tell("written", **asdict(sample))


def evaluate(job: Job, teller: Teller) -> None:
    """KL and top-1 of a checkpoint against the teacher on all held-out answers of a store."""
    from potstill.evaluate.fidelity import checkpoint_fidelity
    from potstill.fidelity import add_up

    store = SignalStore(Path(job["store"]), "held-out")
    with Silent().task("", None, "") as task:
        answers = checkpoint_fidelity(store, range(len(store)), Path(job["checkpoint"]), task)
    whole = add_up(stretch for answer in answers for stretch in answer)
    teller.tell("fidelity", kl=whole.kl / whole.positions, top1=whole.top1 / whole.positions, positions=whole.positions)


def read_examples(path: Path) -> list[Example]:
    """Examples from JSON lines with `ids` and `start`."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Example(str(i), "", np.array(row["ids"], dtype=np.int64), row["start"]) for i, row in enumerate(rows)]


if __name__ == "__main__":
    serve(main)
