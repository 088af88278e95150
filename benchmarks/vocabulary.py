"""What a smaller vocabulary costs by itself: the teacher with some of its tokens, nothing else cut, nothing trained.

In:  a run whose answers are written (a recipe's first two stages).
Out: a Markdown table: tokens kept × {how much longer text becomes, what the teacher would have said and cannot,
     programs that run and pass}; `vocabulary.json` behind it.
Does not know: how tokens are chosen, how programs are judged: `vocab` and `evaluate` do.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gguf_types import code
from rich.console import Console
from transformers import PreTrainedModel

from potstill import pipeline
from potstill.answers import read_answers
from potstill.answers.tokenize import tokenize
from potstill.evaluate.code import code_tasks
from potstill.family import copy_finished
from potstill.machine import bound_product_caches, fastest_dtype
from potstill.models.anatomy import body
from potstill.models.checkpoint import save_checkpoint
from potstill.models.conversation import text_ids
from potstill.models.examples import Example
from potstill.models.gguf import write_gguf
from potstill.models.teacher import find_teacher, load_model, load_tokenizer
from potstill.problem import Problem
from potstill.progress import Task
from potstill.prune.basis import Basis
from potstill.prune.shape import choose_shape
from potstill.prune.student import empty_student
from potstill.recipe import Recipe
from potstill.recipe.student import PruneSection
from potstill.run import Run, open_run, read_json, write_json
from potstill.terminal import TerminalProgress
from potstill.vocab.map import VocabMap
from potstill.vocab.teacher_view import answer_logits

TYPE = "Q8_0"
"""Of the files that write programs: it costs next to nothing, so that what is seen is the vocabulary."""
WHOLE = "whole"
EXAMPLE = """\
example:
  potstill prompts RUN && potstill answers RUN, or any run that has come further; then
  python benchmarks/vocabulary.py RUN --sizes 24576 32768 49152 65536

Every row is kept in OUT/vocabulary.json once it is measured: stopped, the same command goes on.
"""


def main() -> int:
    """Measure, print the table; 1 where something is missing."""
    options = parse()
    bound_product_caches()  # as the command does
    try:
        run = open_run(options.run, progress=TerminalProgress(Console(stderr=True)))
        print(table(measure_all(run, options), options.tasks))
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--out", type=Path, help="where vocabularies and figures go (RUN/vocabularies)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32768, 49152], help="tokens kept (32768 49152)")
    parser.add_argument("--tasks", type=int, default=50, help="programs each writes (50)")
    return parser.parse_args()


def measure_all(run: Run, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Name → figures, the whole vocabulary first; what an earlier call has measured is kept."""
    out: Path = options.out or options.run / "vocabularies"
    out.mkdir(parents=True, exist_ok=True)
    book = out / "vocabulary.json"
    known: dict[str, dict[str, Any]] = read_json(book) if book.exists() else {}
    wanted = {WHOLE: run.recipe} | {str(size): with_size(run.recipe, size) for size in options.sizes}
    for name, recipe in wanted.items():
        own = replace(run, folder=out / name, recipe=recipe)
        made_by = {"tasks": options.tasks, "fingerprint": pipeline.fingerprints(replace(run, recipe=recipe))["vocab"]}
        if made_by.items() <= known.get(name, {}).items():
            continue
        figures, checkpoint = whole(own) if name == WHOLE else part(own, run.folder)
        known[name] = figures | programs(own, checkpoint, options.tasks) | made_by
        write_json(book, known)
    return {name: known[name] for name in wanted}


def with_size(recipe: Recipe, size: int) -> Recipe:
    return recipe.model_copy(update={"vocab": recipe.vocab.model_copy(update={"size": size})})


def whole(run: Run) -> tuple[dict[str, Any], Path]:
    """The teacher as it is."""
    checkpoint = find_teacher(run.recipe.teacher.model, run.home, run.progress).checkpoint
    return {"size": len(load_tokenizer(checkpoint))}, checkpoint


def part(run: Run, finished: Path) -> tuple[dict[str, Any], Path]:
    """The teacher with the vocabulary of the run's recipe; what that vocabulary costs held-out answers and programs.

    Args:
        finished: the run folder that has the answers.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with run.alone():
        copy_finished(finished, run, until="vocab")
    if run.fingerprint("vocab") != pipeline.fingerprints(run)["vocab"]:
        pipeline.run_stage(run, "vocab")
    vocabulary = VocabMap.load(run.stage("vocab") / "vocab_map.safetensors")
    teacher = find_teacher(run.recipe.teacher.model, run.home, run.progress)
    answers = read_answers(run.stage("answers") / "answers.jsonl")
    tokenizer = load_tokenizer(run.stage("vocab"))
    held_out = [answer for answer in answers if answer.prompt.split == "held-out"]
    examples = tokenize(tokenizer, held_out, run.recipe.signals.context)
    with run.progress.task("likeliest tokens", sum(len(example.ids) for example in examples), "tokens") as bar:
        model = load_model(teacher.checkpoint, getattr(torch, fastest_dtype()))
        missed = likeliest_missing(model, vocabulary, examples, bar)
    after, before = (
        sum(len(text_ids(cutter, task.solution)) for task in code_tasks())
        for cutter in (tokenizer, load_tokenizer(teacher.checkpoint))
    )
    checkpoint = run.folder / "checkpoint"
    save_checkpoint(keep_only(teacher.checkpoint, vocabulary), run.stage("vocab"), checkpoint, torch.bfloat16, "")
    report = read_json(run.stage("vocab") / "report.json")
    return report | missed | {"programs_lengthening": after / before}, checkpoint


def keep_only(checkpoint: Path, vocabulary: VocabMap) -> PreTrainedModel:
    """A model with some rows of its embedding, and all the rest."""
    base = load_model(checkpoint, torch.bfloat16)
    everything = PruneSection.model_validate({"layers": None, "parameters": None})
    spec = choose_shape(base.config, vocabulary.size, everything)
    width = base.config.hidden_size
    student = empty_student(base, spec, vocabulary, Basis.of_dimensions(torch.arange(width), width))
    body(student).layers.load_state_dict(body(base).layers.state_dict())
    body(student).norm.load_state_dict(body(base).norm.state_dict())
    return student


@torch.inference_mode()
def likeliest_missing(
    model: PreTrainedModel, vocabulary: VocabMap, examples: Sequence[Example], bar: Task
) -> dict[str, float]:
    """Share of answer positions where a model's likeliest token is not kept: everywhere, and in code.

    Args:
        examples: in the ids of the vocabulary.
    """
    kept = torch.from_numpy(vocabulary.teacher_ids)
    missing, positions = [0, 0], [0, 0]
    for is_code in (False, True):
        group = [example for example in examples if (example.category == "code") == is_code]
        for logits in answer_logits(model, group, kept, bar):
            missing[is_code] += int((~torch.isin(logits.argmax(dim=-1), kept)).sum())
            positions[is_code] += len(logits)
    return {
        "missing_all": sum(missing) / max(sum(positions), 1),
        "missing_code": missing[True] / max(positions[True], 1),
    }


def programs(run: Run, checkpoint: Path, tasks: int) -> dict[str, int]:
    """How many of the programs that a checkpoint writes run, and pass; its GGUF is left in the run's folder."""
    gguf = run.folder / f"{run.folder.name}-{TYPE}.gguf"
    write_gguf(checkpoint, gguf, TYPE, metadata={}, progress=run.progress)
    shutil.rmtree(run.folder / "checkpoint", ignore_errors=True)  # a gigabyte; the file holds the same
    return code(run, gguf, tasks)


def table(figures: Mapping[str, Mapping[str, Any]], tasks: int) -> str:
    """Markdown, a row a vocabulary."""
    asked = min(tasks, len(code_tasks()))
    lines = [
        "| tokens | held-out answers longer | programs longer | kept probability "
        "| likeliest token missing | in code | programs run | pass |",
        f"|{'---|' * 8}",
    ]
    for name, row in figures.items():
        cells = [""] * 5
        if name != WHOLE:
            shares = ("lengthening", "programs_lengthening")
            cells = [
                *(f"{row[share] - 1:.2%}" for share in shares),
                *(f"{row[share]:.2%}" for share in ("kept_probability", "missing_all", "missing_code")),
            ]
        lines.append(
            f"| {' | '.join([format(row['size'], ','), *cells])} | {row['runs']}/{asked} | {row['passes']}/{asked} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
