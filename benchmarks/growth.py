"""Time and memory of every stage at 1, 3, 10 and 30 times the prompts, each stage in a process of its own.

    python benchmarks/growth.py --out growth.json
    python benchmarks/growth.py --teacher qwen2.5-coder-0.5b-instruct --prompts 20 --times 1 3

`--teacher tiny` is a random model made here (4 layers of width 64): minutes instead of hours, and what is not the
teacher's arithmetic shows all the more. Training takes the same number of steps at every size. Prints Markdown; OUT
holds the figures, and `python benchmarks/simulate --growth OUT` predicts the larger sizes from the smaller ones.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from made_text import write_rows
from measuring import Line, alone, line_through
from rich.console import Console

from potstill.pipeline import STAGES, stage_named
from potstill.recipe import validate_recipe
from potstill.run import Run, default_home, describe_machine, open_run, read_json, write_json
from potstill.terminal import TerminalProgress

MEASURED = [stage.name for stage in STAGES if stage.name not in ("evaluate", "report")]
LOADED = ("potstill.distill.trainer", "potstill.export", "potstill.models.gguf")
"""Imported once for all: seconds that depend on no prompt. Their memory is in what is fixed."""
TINY: dict[str, Any] = {
    "answers": {"context": 1024, "max_tokens": 16, "slots": 1},
    "vocab": {"size": 512, "expectation_tokens": 1000, "coverage_tokens": 1000},
    "signals": {"group": 32, "context": 1024},
    "prune": {"layers": 3, "ffn": 64, "calibration_tokens": 4096},
    "export": {"types": ["F16", "Q8_0"], "ship": "Q8_0"},
}


def main() -> None:
    options = parse()
    figures: list[dict[str, Any]] = []
    found = {"machine": describe_machine(), "teacher": options.teacher, "steps": options.steps, "figures": figures}
    with TemporaryDirectory(dir=options.runs) as place:
        teacher = tiny_teacher(Path(place)) if options.teacher == "tiny" else options.teacher
        home = Path(place) / "home" if options.teacher == "tiny" else default_home()
        alone(fetch, teacher, home, loaded=LOADED)
        for times in options.times:
            folder = Path(place) / f"{times}x"
            begin(folder, teacher, options.prompts * times, options.written, TINY if options.teacher == "tiny" else {})
            for stage in MEASURED:
                figures.append(measure(folder, home, stage, options.steps) | {"prompts": options.prompts * times})
                if options.out:
                    write_json(options.out, found)
    print("\n".join(tables(found)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="tiny", help="tiny (made here), or any that a recipe may name")
    parser.add_argument("--prompts", type=int, default=100, help="prompts at 1 ×")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 3, 10, 30], help="sizes, in multiples (1 3 10 30)")
    parser.add_argument("--steps", type=int, default=20, help="training steps at every size")
    parser.add_argument("--written", type=float, default=0.1, help="share of prompts that the teacher answers itself")
    parser.add_argument("--runs", type=Path, help="where the runs lie while they are measured (the system's own place)")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    return parser.parse_args()


def tiny_teacher(place: Path) -> str:
    """A checkpoint as the tests make it, with room for longer texts."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from tiny import save_checkpoint

    return str(save_checkpoint(place / "teacher", max_position_embeddings=1024))


def fetch(teacher: str, home: Path) -> None:
    """Whatever is fetched or converted once is no stage's work."""
    from potstill.models.teacher import find_teacher

    find_teacher(teacher, home, TerminalProgress(Console(stderr=True)))


def begin(folder: Path, teacher: str, prompts: int, written: float, sections: dict[str, Any]) -> None:
    """A run folder with its recipe, and the file of prompts beside it."""
    file = folder.with_suffix(".jsonl")
    write_rows(file, prompts, unanswered=written)
    recipe = {
        "name": "growth",
        "teacher": {"model": teacher},
        "prompts": {"golden": False, "files": [{"path": str(file), "held_out_share": 0.1}]},
        **sections,
    }
    Run(folder, validate_recipe(recipe, "growth")).keep_recipe()


def measure(folder: Path, home: Path, stage: str, steps: int) -> dict[str, Any]:
    """One stage in its own process: its cost, and the tokens it worked on."""
    if stage == "distill":
        limit_steps(folder, steps)
    cost = alone(work, folder, home, stage, loaded=LOADED)
    return {"stage": stage, "tokens": tokens_of(folder, stage), **cost._asdict()}


def work(folder: Path, home: Path, stage: str) -> None:
    run = open_run(folder, home, TerminalProgress(Console(stderr=True)))
    with run.building(stage, "growth") as partial:
        stage_named(stage).work(run, partial)


def limit_steps(folder: Path, steps: int) -> None:
    """The share of an epoch that has so many steps, into the run's recipe."""
    from potstill.distill.batches import LengthBatches
    from potstill.signals.store import SignalStore

    run = open_run(folder)
    store, section = SignalStore(folder / "signals", "train"), run.recipe.distill
    batches = LengthBatches([len(example.ids) for example in store.examples], section.batch_tokens, run.recipe.seed)
    limited = section.model_copy(update={"epochs": steps / len(batches)})
    Run(folder, run.recipe.model_copy(update={"distill": limited})).keep_recipe()


def tokens_of(folder: Path, stage: str) -> int:
    """Tokens that went through a stage; 0 where nobody counts them."""
    names = {"answers": "tokens", "signals": "tokens_read", "prune": "calibration_tokens", "distill": "tokens"}
    return int(read_json(folder / stage / "report.json")[names[stage]]) if stage in names else 0


def tables(found: dict[str, Any]) -> list[str]:
    """What was measured, and the line through it, a row a stage."""
    rows = [
        "| stage | prompts | tokens | seconds | CPU seconds | ms a prompt | µs a token | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    fits = [
        "| stage | fixed, s | ms a prompt | linear within | CPU: linear within | fixed, MB | MB per 1,000 prompts |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage in MEASURED:
        figures = [figure for figure in found["figures"] if figure["stage"] == stage]
        rows += [measured_row(figure) for figure in figures]
        if len(figures) > 1:  # through one point goes any line
            fits.append(fit_row(stage, *lines(figures)))
    title = f"{found['machine']}; teacher {found['teacher']}; {found['steps']} training steps at every size."
    return [title, "", *rows, *(["", *fits] if len(fits) > 2 else [])]


def measured_row(figure: dict[str, Any]) -> str:
    prompts, tokens, seconds = figure["prompts"], figure["tokens"], figure["seconds"]
    a_token = f"{1e6 * seconds / tokens:.0f}" if tokens else ""
    cells = [figure["stage"], f"{prompts:,}", f"{tokens:,}" if tokens else "", f"{seconds:.2f}"]
    cells += [f"{figure['cpu_seconds']:.2f}", f"{1e3 * seconds / prompts:.2f}", a_token, f"{figure['peak_mb']:.0f}"]
    return f"| {' | '.join(cells)} |"


def lines(figures: list[dict[str, Any]]) -> list[Line]:
    """Over prompts: seconds, CPU seconds, peak memory."""
    sizes = [figure["prompts"] for figure in figures]
    return [line_through(sizes, [figure[name] for figure in figures]) for name in ("seconds", "cpu_seconds", "peak_mb")]


def fit_row(stage: str, seconds: Line, cpu: Line, memory: Line) -> str:
    return (
        f"| {stage} | {seconds.fixed:.2f} | {1e3 * seconds.each:.2f} | {seconds.off:.0%} | {cpu.off:.0%} "
        f"| {memory.fixed:.0f} | {1e3 * memory.each:.1f} |"
    )


if __name__ == "__main__":
    main()
