"""Ours beside TRL, Soup, DistillKit, a plain Transformers loop and llama.cpp's server, on one run's material.

    python -m benchmarks.peers --run runs/demo --out runs/peers
    python -m benchmarks.peers --run runs/demo --out runs/peers --only reading --only writing --rounds 5

Contestants take turns, round by round, each in a process of its own with as many threads as the others. Peers get their
own environments under OUT (300 MB each, made once). Killed at any time, the same command goes on where it was:
results are kept as JSON as they come. Prints Markdown, and leaves it in a file a part. Leave the machine alone
meanwhile.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from potstill.machine import fastest_dtype, usable_cores
from potstill.models.engine import Threads, default_threads
from potstill.models.speed import choose_threads
from potstill.problem import Problem
from potstill.run import Run, digest, open_run, read_json, write_json, write_text
from potstill.terminal import TerminalProgress

from . import tables
from .conducting import Conductor, Result
from .contests import Choice, Contests
from .material import Work, gather, needed_work

PARTS = ("reading", "training", "time", "writing", "starting")


def main() -> int:
    """Measure what is chosen, print the tables; 1 where the run will not do."""
    given = parse()
    progress = TerminalProgress(Console(stderr=True))
    try:
        compare(given, open_run(given.run, progress=progress))
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


def at_least_two(text: str) -> int:
    """The first step warms up and is left out. Raises: ArgumentTypeError where no other one is left."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text}: 2 or more")
    return int(text)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="a finished run: its teacher, answers and students")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"), help="environments, results (runs/peers)")
    parser.add_argument("--rounds", type=int, default=3, help="times that everybody is measured (3)")
    parser.add_argument("--steps", type=at_least_two, default=8, help="training steps of the speed part, 2 or more (8)")
    parser.add_argument("--minutes", type=float, default=5.0, help="training time of the equal-time part (5)")
    parser.add_argument("--batch", type=int, default=4, help="answers a step, for everybody (4)")
    parser.add_argument("--answers", type=int, default=40, help="answers that the teacher reads, in reading (40)")
    parser.add_argument("--questions", type=int, default=4, help="questions that are answered, in writing (4)")
    parser.add_argument("--tokens", type=int, default=48, help="tokens written for each question (48)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of every process (all cores)")
    parser.add_argument("--only", action="append", choices=PARTS, default=[], help="a part; may be repeated")
    return parser.parse_args()


def compare(given: argparse.Namespace, run: Run) -> None:
    """Round by round, part by part; the tables grow with every round."""
    folder = given.out.resolve() / f"{run.recipe.name}-{identity(run)}"
    (folder / "material").mkdir(parents=True, exist_ok=True)
    conductor = Conductor(folder, given.out.resolve() / "environments", given.threads, run.progress.say)
    material = gather(run, folder / "material", given.batch)
    choice = choose(given, run, folder / "material" / "choice.json")
    contests = Contests(run, material, choice, conductor)
    parts = [part for part in PARTS if not given.only or part in given.only]
    found: dict[str, list[list[Result]]] = {}
    for number in range(given.rounds):
        for part in ("limits", *parts):
            measure: Callable[[int], list[Result]] = getattr(contests, part)
            found.setdefault(part, []).append(measure(number))
    head = tables.heading(found["limits"], choice, given.threads)
    for part in parts:
        text = "\n".join([*head, *shown(part, found, choice, needed_work(material), contests)])
        write_text(folder / f"{part}.md", text)
        print(text)
    shutil.rmtree(folder / "scratch", ignore_errors=True)


def identity(run: Run) -> str:
    """Changes with everything that contestants are given: results of one run are never taken for another's."""
    stages = ("answers", "vocab", "prune", "distill", "export")
    made = run.manifest()
    return digest({stage: made.get(stage, {}).get("content", run.fingerprint(stage)) for stage in stages})[:8]


def choose(given: argparse.Namespace, run: Run, kept: Path) -> Choice:
    """The command line, and two probes of the machine that are made once: another answer would be another job."""
    if not kept.exists():
        threads = default_threads(given.threads)
        if (run.folder / "export").is_dir():
            from potstill.export import gguf_path

            threads = choose_threads(gguf_path(run, run.recipe.export.ship), given.threads)
        write_json(kept, {"dtype": fastest_dtype(), "threads": vars(threads)})
    probed = read_json(kept)
    return Choice(
        batch=given.batch,
        steps=given.steps,
        minutes=given.minutes,
        dtype=probed["dtype"],
        read=given.answers,
        questions=given.questions,
        new_tokens=given.tokens,
        threads=Threads(**probed["threads"]),
    )


def shown(part: str, found: dict[str, list[list[Result]]], choice: Choice, work: Work, contests: Contests) -> list[str]:
    """The table of a part."""
    rounds, limits = found[part], tables.Limits.of(found["limits"], choice.dtype)
    if part == "reading":
        return tables.reading(rounds, work, limits)
    if part == "training":
        return tables.training(rounds, work, limits, contests.reading(0))
    if part == "time":
        return tables.time(rounds, choice.minutes)
    if part == "writing":
        return tables.writing(rounds, limits, contests.weights())
    return tables.starting(rounds)


if __name__ == "__main__":
    sys.exit(main())
