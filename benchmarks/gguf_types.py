"""What each GGUF type costs a student and what it gives, in one table.

In:  a run whose student is trained and exported.
Out: a Markdown table: type × {MB, KL to the float student and to the teacher, code, speed}; `types.json` behind it.
Does not know: how anything is measured: `evaluate` and `export` do.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from potstill.answers import read_answers
from potstill.evaluate.code import code_tasks, grade_all, program_limits
from potstill.evaluate.exam import BEHIND_CODE
from potstill.evaluate.fidelity import spread_over
from potstill.evaluate.replies import Ask, open_notebook, write_replies
from potstill.evaluate.speed import choose_questions, measure_speed
from potstill.export.guard import symbol_tokens
from potstill.export.writing import StudentFiles
from potstill.losses import forward_kl
from potstill.machine import usable_cores
from potstill.models.engine import Sampling
from potstill.models.gguf_adapter import adapter_beside
from potstill.models.llama import LlamaReader
from potstill.models.positions import predicted, predicting
from potstill.models.teacher import load_model, load_tokenizer
from potstill.problem import Problem
from potstill.run import Run, open_run, read_json, write_json
from potstill.signals.formats import HiddenRows
from potstill.signals.store import SignalStore
from potstill.terminal import TerminalProgress

TYPES = (
    *("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K", "Q4_K_M", "Q4_K", "Q5_0", "IQ4_NL", "Q4_0"),
    *("Q4_0-embedding-Q8_0", "Q4_0-embedding-F16", "Q4_0-guard"),
)
REFERENCE = "Q4_0"
"""Whose best thread setting all are timed with."""
DESCRIPTION = """\
What does each GGUF type cost a student, and what does it give?

KL is measured on held-out answers as llama.cpp computes it, in nats, to the float student (what rounding lost) and to
the teacher (what counts); "at symbols" are those positions where the teacher wrote punctuation, digits or indentation.
Code: the tasks of `potstill evaluate`, run in its sandbox. Speed: all types in turn, round by round.
"""
EXAMPLE = """\
example:
  python benchmarks/gguf_types.py runs/demo --tasks 50 --rounds 3

Every type is kept in OUT/types.json once it is measured: stopped, the same command goes on. Leave the machine alone
while it runs: the speed is measured last. --importance 0 asks the same of files whose weights are rounded one by one.
"""


def main() -> int:
    """Measure, print the table; 1 where something is missing."""
    options = parse()
    try:
        run = open_run(options.run, progress=TerminalProgress(Console(stderr=True)))
        export = run.recipe.export.model_copy(
            update={"importance_tokens": options.importance, "guard_most": options.guard}
        )
        run = replace(run, recipe=run.recipe.model_copy(update={"export": export}))
        print(table(measure_all(run, options)))
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--out", type=Path, help="where files and figures go (RUN/types)")
    parser.add_argument("--types", nargs="+", default=list(TYPES), help="types and mixes (all)")
    parser.add_argument("--tasks", type=int, default=50, help="code tasks each writes; 0: none (50)")
    parser.add_argument("--answers", type=int, default=40, help="held-out answers compared (40)")
    parser.add_argument("--rounds", type=int, default=3, help="times each is timed; 0: not at all (3)")
    parser.add_argument("--importance", type=int, default=16000, help="training tokens behind the rounding (16000)")
    parser.add_argument("--guard", type=int, default=96, help="tokens that the guard guards (96)")
    return parser.parse_args()


def measure_all(run: Run, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Type → figures, in the order asked for; what an earlier call has measured is kept."""
    out: Path = options.out or options.run / "types"
    out.mkdir(parents=True, exist_ok=True)
    book = out / "types.json"
    made = run.manifest()
    student = {one: made.get(one, {}).get("content", run.fingerprint(one)) for one in ("distill", "signals")}
    settings = {"importance": options.importance, "guard": options.guard, "answers": options.answers} | student
    known = read_json(book) if book.exists() else {"settings": settings, "types": {}}
    if known["settings"] != settings:
        raise Problem(f"{book} was measured with {known['settings']}", "Give the same, or another --out.")
    files = StudentFiles(run, out, run.fingerprint("distill") or "")
    todo = [kind for kind in options.types if kind not in known["types"]]
    if todo:
        held_out = HeldOut(run, files, options.answers)
        for kind in todo:
            files.write(kind)
            known["types"][kind] = {"megabytes": megabytes(files.path(kind)), **held_out.measure(files.path(kind))}
            write_json(book, known)
    for kind in options.types:
        found = known["types"][kind]
        if found.get("tasks") != min(options.tasks, len(code_tasks())):
            found.update(code(run, files.path(kind), options.tasks))
            write_json(book, known)
    if options.rounds and any("decode" not in known["types"][kind] for kind in options.types):
        for kind, found in speed(run, files, options.types, options.rounds).items():
            known["types"][kind].update(found)
        write_json(book, known)
    return {kind: known["types"][kind] for kind in options.types}


def megabytes(gguf: Path) -> float:
    """Size of a file with its adapter."""
    adapter = adapter_beside(gguf)
    return (gguf.stat().st_size + (adapter.stat().st_size if adapter else 0)) / 1e6


class HeldOut:
    """Held-out answers, and what the float student expects of them."""

    def __init__(self, run: Run, files: StudentFiles, answers: int) -> None:
        """Read them once with the float student. Raises: Problem where nothing is held out."""
        self._store, self._run = SignalStore(run.stage("signals"), "held-out"), run
        if not len(self._store) or self._store.form.kind != "hidden":
            raise Problem("This run holds no held-out hidden signals", "Use a run made with them.")
        self._chosen = spread_over(self._store, answers)
        self._head = self._store.head.float()
        self._symbols = torch.tensor(sorted(symbol_tokens(load_tokenizer(files.checkpoint))))
        model = load_model(files.checkpoint, torch.float32)
        with torch.inference_mode():
            self._exact = {
                index: model(torch.from_numpy(self._store.examples[index].ids)[None])
                .logits[0, predicting(self._store.examples[index].start, len(self._store.examples[index].ids))]
                .half()
                for index in self._chosen
            }

    def measure(self, gguf: Path) -> dict[str, float]:
        """KL of a file: to the float student, to the teacher, to the teacher at symbols."""
        float_kl, teacher_kl, at_symbol = [], [], []
        longest = max(len(self._store.examples[index].ids) for index in self._chosen)
        label = f"{gguf.stem} reads"
        with (
            LlamaReader(gguf, context=longest + 1, threads=usable_cores()) as reader,
            self._run.progress.task(label, len(self._chosen), "answers") as task,
        ):
            for index in self._chosen:
                example = self._store.examples[index]
                logits = torch.from_numpy(reader.logits(example.ids[:-1].tolist(), start=example.start - 1))
                float_kl.append(forward_kl(self._exact[index].float(), logits, 1.0))
                teacher_kl.append(forward_kl(self._teacher(index), logits, 1.0))
                tokens = torch.from_numpy(example.ids[predicted(example.start, len(example.ids))])
                at_symbol.append(torch.isin(tokens, self._symbols))
                task.advance()
        teacher, symbols = torch.cat(teacher_kl), torch.cat(at_symbol)
        return {
            "positions": len(teacher),
            "symbols": int(symbols.sum()),
            "float_kl": float(torch.cat(float_kl).mean()),
            "teacher_kl": float(teacher.mean()),
            "symbol_kl": float(teacher[symbols].mean()),
            "symbol_float_kl": float(torch.cat(float_kl)[symbols].mean()),
        }

    def _teacher(self, index: int) -> Tensor:
        rows = self._store.rows_of([index])
        assert isinstance(rows, HiddenRows)
        return HiddenRows(rows.hidden, self._head).logits(slice(None))


def code(run: Run, gguf: Path, tasks: int) -> dict[str, int]:
    """How many programs run, and how many pass."""
    section, chosen = run.recipe.evaluate, code_tasks()[:tasks]
    if not chosen:
        return {"tasks": 0, "runs": 0, "passes": 0}
    program = Sampling.greedy(section.code_tokens, stop=(BEHIND_CODE,))
    asks = [Ask(task.prompt, program) for task in chosen]
    with run.progress.task(f"{gguf.stem} writes programs", len(asks), "programs") as bar:
        notebook = open_notebook(gguf, run.home, gguf.parent / "replies", fresh=False)
        replies = write_replies(gguf, asks, section.reply_context, notebook, bar, run.progress.say)
    limits = program_limits(section)
    with run.progress.task(f"{gguf.stem} programs run", len(asks), "programs") as bar:
        results = grade_all(chosen, [reply.text for reply in replies], limits, bar)
    return {
        "tasks": len(chosen),
        "runs": sum(result.runs for result in results),
        "passes": sum(result.passes for result in results),
    }


def speed(run: Run, files: StudentFiles, types: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Tokens a second and milliseconds to the first token: medians over all questions and rounds."""
    texts = [answer.prompt.text for answer in read_answers(run.stage("answers") / "answers.jsonl")]
    section = run.recipe.evaluate.model_copy(update={"rounds": rounds})
    reference = REFERENCE if REFERENCE in types else types[0]
    others = {kind: files.path(kind) for kind in types if kind != reference}
    questions = choose_questions(texts, section.prompts)
    timed = measure_speed({"student": files.path(reference)}, others, questions, section, run.progress)
    return {
        kind: {
            "decode": statistics.median(rate for sample in samples for rate in sample.decode_tok_s),
            "first": statistics.median(number for sample in samples for number in sample.first_token_ms),
        }
        for kind, samples in (
            (reference if name == "student" else name, found) for name, found in timed.samples.items()
        )
    }


def table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, a row a type."""
    lines = [
        "| type | MB | KL to the float student | KL to the teacher | at symbols | code runs | code passes | tokens/s "
        "| first token |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, row in figures.items():
        rate = f"{row['decode']:.0f} | {row['first']:.0f} ms" if "decode" in row else "– | –"
        done = f"{row['runs']}/{row['tasks']} | {row['passes']}/{row['tasks']}" if row["tasks"] else "– | –"
        lines.append(
            f"| {kind} | {row['megabytes']:.1f} | {row['float_kl']:.4f} | {row['teacher_kl']:.4f} "
            f"| {row['symbol_kl']:.4f} | {done} | {rate} |"
        )
    first = next(iter(figures.values()))
    note = f"\n{first['positions']} held-out positions, {first['symbols']} of them symbols."
    if "Q4_0-guard" in figures and "decode" in figures.get("Q4_0", {}) and "decode" in figures["Q4_0-guard"]:
        share = figures["Q4_0-guard"]["decode"] / figures["Q4_0"]["decode"] - 1
        note += f" The guard costs {-100 * share:.1f} % of Q4_0's tokens a second."
    return "\n".join([*lines, note])


if __name__ == "__main__":
    sys.exit(main())
