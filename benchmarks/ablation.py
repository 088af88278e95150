"""Every recipe of recipes/ablation, one after the other, and the table that compares them.

    python benchmarks/ablation.py --runs runs/ablation --minutes 10 --seeds 2
    python benchmarks/ablation.py --only hidden --only lora --minutes 1

Killed at any time, the same command goes on where it was. Stages that an earlier recipe has done already, with the
same fingerprint, are copied: all share prompts, answers and vocabulary, most the signals and the healed student.
Prints Markdown for docs/results.md, and leaves compare.html beside the runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from potstill import pipeline
from potstill.compare import Comparison, Reading, compare, write_page
from potstill.family import copy_finished
from potstill.machine import bound_product_caches
from potstill.problem import Problem
from potstill.recipe import Recipe, load_recipe, with_options
from potstill.run import Run, default_home, read_json
from potstill.terminal import TerminalProgress

RECIPES = Path(__file__).parents[1] / "recipes" / "ablation"
FIRST = "logits-only"
"""What all others are compared with."""
METRICS = {
    "fidelity.kl": "KL, nats",
    "fidelity.top1": "top-1",
    "stability.similarity": "similarity",
    "stability.repetition": "repetition",
    "answers.broken": "broken",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--minutes", type=float, default=None, help="training time; the recipes' own if not given")
    parser.add_argument("--seeds", type=int, default=1)
    names = [FIRST, *(path.stem for path in sorted(RECIPES.glob("*.toml")) if path.stem != FIRST)]
    told = f"beside {FIRST}; may be repeated: {', '.join(names[1:])}"
    parser.add_argument("--only", action="append", default=[], choices=names[1:], metavar="NAME", help=told)
    given = parser.parse_args()
    chosen = [name for name in names if not given.only or name == FIRST or name in given.only]
    progress = TerminalProgress(Console(stderr=True))
    folders: list[Path] = []
    for seed in range(given.seeds):
        for name in chosen:
            recipe = with_options(load_recipe(RECIPES / f"{name}.toml"), given.minutes, False)
            run = Run(given.runs / f"{name}-{seed}", seeded(recipe, seed), default_home(), progress)
            if finish(run, folders):
                folders.append(run.folder)
    if len(folders) < 2:
        sys.exit("nothing to compare: every other recipe was left out")
    found = compare(folders)
    write_page(found, given.runs / "compare.html")
    print("\n".join(markdown(found)))


def seeded(recipe: Recipe, seed: int) -> Recipe:
    return recipe.model_copy(update={"seed": seed})


def finish(run: Run, earlier: Sequence[Path]) -> bool:
    """All stages; False, and why, where a technique cannot run on this machine."""
    bound_product_caches()  # as the command does
    run.folder.mkdir(parents=True, exist_ok=True)
    with run.alone():
        for other in earlier:
            copy_finished(other, run)
    started = time.monotonic()
    try:
        pipeline.run_all(run)
    except Problem as problem:
        run.progress.say(f"{run.folder.name}: left out, {problem}")
        return False
    run.progress.say(f"{run.folder.name}: {(time.monotonic() - started) / 60:.1f} minutes")
    return True


def markdown(found: Comparison) -> list[str]:
    """A row an entrant: value, and the paired difference to the first with its interval; bold: 0 left out."""
    standings = {one.metric.key: one for one in found.standings}
    shown = [key for key in METRICS if key in standings]
    lines = [
        f"| recipe | {' | '.join(METRICS[key] for key in shown)} | steps | training, min |",
        f"|---|{'---|' * (len(shown) + 2)}",
    ]
    for place, entrant in enumerate(found.entrants):
        cells = [cell(standings[key].readings[place]) for key in shown]
        reports = [read_json(run.folder / "distill" / "report.json") for run in entrant.runs]
        steps = "/".join(str(report.get("steps", "")) for report in reports)
        minutes = "/".join(f"{report['seconds'] / 60:.1f}" for report in reports)
        lines.append(f"| {entrant.name.removeprefix('ablation-')} | {' | '.join(cells)} | {steps} | {minutes} |")
    counts = ", ".join(f"{standings[key].n} for {METRICS[key]}" for key in shown)
    return [
        *lines,
        "",
        f"Items: {counts}. Brackets: 95 % intervals of the paired difference to the first row.",
        *found.warnings,
    ]


def cell(reading: Reading) -> str:
    if reading.value is None:
        return "not measured"
    text, difference = f"{reading.value.value:.3f}", reading.difference
    if difference is None:
        return text
    told = f"{difference.value:+.3f}"
    if difference.low is not None:
        told += f" [{difference.low:+.3f} to {difference.high:+.3f}]"
    return f"{text}, {f'**{told}**' if reading.verdict in ('better', 'worse') else told}"


if __name__ == "__main__":
    main()
