"""Stage `signals`: the teacher reads every answer, and what it thought is kept.

In:  `answers/`, `vocab/`, the teacher.
Out: `signals/`: shards of both splits, the teacher's head over the kept tokens, `index.json`, `report.json`.
Does not know: the student.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.answers import read_answers
from potstill.problem import Problem
from potstill.run import Run, read_json, write_json
from potstill.vocab.map import VocabMap

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from potstill.models.examples import Example
    from potstill.recipe import Recipe
    from potstill.signals.collect import Source
    from potstill.signals.store import StoreFormat

__all__ = ["teach", "verify"]

SPLITS = ("train", "held-out")


def teach(run: Run, folder: Path) -> None:
    """Read all answers, shard by shard."""
    from potstill.signals.collect import collect_signals

    examples = _examples(run)
    source = _open_source(run, folder)
    total = sum(len(example.ids) for part in examples.values() for example in part)
    fresh, started = not any(folder.glob("*-*.safetensors")), time.monotonic()
    with run.progress.task("the teacher reads", total, "tokens") as task:
        shards = {
            split: collect_signals(source, split, part, run.recipe.signals.shard_answers, folder, task)
            for split, part in examples.items()
        }
    report = _report(folder, examples, shards)
    # After a resume the clock saw only a part of the reading.
    report["tokens_per_second"] = total / (time.monotonic() - started) if fresh else 0.0
    write_json(folder / "report.json", report)
    write_json(folder / "index.json", {"format": asdict(source.form), "shards": shards})
    run.progress.say(
        f"signals: {report['answer_tokens']:,} answer tokens, {report['bytes_per_token']:.0f} bytes each, "
        f"{report['megabytes']:.0f} MB"
    )


def verify(run: Run, positions: int) -> dict[str, float]:
    """Read random training answers again and compare them with the store.

    Args:
        positions: answer positions to compare, at least (whole answers are read).

    Returns: positions compared; mean and largest KL at T = 1, in nats, of the stored against the fresh distribution.
    """
    import numpy as np
    import torch

    from potstill.models.reading import LAST, read_states
    from potstill.signals.formats import HiddenRows
    from potstill.signals.store import SignalStore

    store = SignalStore(run.stage("signals"), "train")
    source = _open_source(run, run.stage("signals"))
    order = [int(index) for index in np.random.default_rng(run.recipe.seed).permutation(len(store))]
    ends = np.cumsum([store.examples[index].rows for index in order])
    chosen = order[: int(np.searchsorted(ends, positions)) + 1]
    examples = [store.examples[index] for index in chosen]
    divergences = []
    for place, states in read_states(source.model, examples, source.teacher_ids, (), source.batch_tokens):
        fresh = HiddenRows(states[LAST], store.head).logits(slice(None))
        temperature = 1.0 if store.form.kind == "hidden" else store.form.temperatures[0]
        divergences.append(store.rows_of([chosen[place]]).divergence(fresh, slice(None), temperature))
    everything = torch.cat(divergences)
    return {
        "positions": float(len(everything)),
        "mean_kl": float(everything.mean()),
        "largest_kl": float(everything.max()),
    }


def _examples(run: Run) -> dict[str, list[Example]]:
    from potstill.answers.tokenize import tokenize
    from potstill.models.teacher import load_tokenizer

    tokenizer = load_tokenizer(run.stage("vocab"))
    answers = read_answers(run.stage("answers") / "answers.jsonl")
    found = {
        split: tokenize(tokenizer, [a for a in answers if a.prompt.split == split], run.recipe.signals.context)
        for split in SPLITS
    }
    if not found["train"]:
        raise Problem("no training answer fits into signals.context", "Raise signals.context or shorten the prompts.")
    lost = len(answers) - sum(map(len, found.values()))
    if lost:
        run.progress.say(f"signals: {lost} answers left out, their question fills signals.context")
    return found


def _open_source(run: Run, folder: Path) -> Source:
    """Load the teacher in the dtype this store was begun with, and keep its head beside the shards."""
    import torch
    from safetensors.torch import save_file

    from potstill.machine import fastest_dtype
    from potstill.models.anatomy import head_weight
    from potstill.models.teacher import find_teacher, load_model
    from potstill.signals.collect import Source

    teacher = find_teacher(run.recipe.teacher.model, run.home, run.progress)
    # The probe may answer differently after a kill, and one store must not mix two dtypes.
    note = folder / "dtype.json"
    if not note.exists():
        write_json(note, fastest_dtype())
    model = load_model(teacher.checkpoint, getattr(torch, read_json(note)))
    vocabulary = VocabMap.load(run.stage("vocab") / "vocab_map.safetensors")
    teacher_ids = torch.from_numpy(vocabulary.teacher_ids)
    head = head_weight(model).detach()[teacher_ids]
    if not (folder / "head.safetensors").exists():
        save_file({"head": head}, folder / "head.tmp")
        (folder / "head.tmp").replace(folder / "head.safetensors")
    form = _store_format(run.recipe, model, vocabulary, teacher.sha256)
    return Source(model, teacher_ids, head, form, run.recipe.signals.k, run.recipe.signals.batch_tokens)


def _store_format(recipe: Recipe, model: PreTrainedModel, vocabulary: VocabMap, teacher: str) -> StoreFormat:
    from potstill.signals.store import StoreFormat

    width, asked, layers = model.config.hidden_size, recipe.signals, recipe.teacher_layers()
    if asked.precision == "int8" and width % asked.group:
        raise Problem(f"signals.group = {asked.group} does not divide the teacher's width {width}", "Choose a divisor.")
    if layers and layers[-1] > model.config.num_hidden_layers:
        raise Problem(
            f"distill.hidden_pairs names teacher layer {layers[-1]}, it has {model.config.num_hidden_layers}",
            "Name a layer that exists.",
        )
    temperatures = recipe.distill.temperature.values() if asked.format == "topk" else ()
    return StoreFormat(
        asked.format, asked.precision, asked.group, width, vocabulary.size, layers, temperatures, teacher
    )


def _report(
    folder: Path, examples: Mapping[str, Sequence[Example]], shards: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    answer_tokens = sum(example.rows for part in examples.values() for example in part)
    size = sum((folder / name).stat().st_size for names in shards.values() for name in names)
    return {
        "answers": sum(map(len, examples.values())),
        "tokens_read": sum(len(example.ids) for part in examples.values() for example in part),
        "answer_tokens": answer_tokens,
        "bytes_per_token": size / answer_tokens,
        "megabytes": size / 1e6,
    }
