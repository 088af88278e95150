"""Other sizes of a run, from what smaller ones took.

In:  figures of benchmarks/growth.py, or the reports and the manifest of a run.
Out: Markdown: predicted beside measured; or what more prompts and workers would take.
Does not know: hardware that nobody measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from queueing import Phase, Resource, Stage, cut, simulate

from potstill.problem import Problem
from potstill.run import read_json

Figure = Mapping[str, Any]
STORAGE = "storage"
CONSTANT = ("export",)
SAME = 0.15
"""Two sizes of work this close, as a share, are the same one."""
PIECES = 100


def growth_table(path: Path) -> str:
    """The two smallest sizes say what a stage's work costs; the larger ones are simulated and compared.

    Raises: Problem where there is no such file, or it holds fewer than three sizes.
    """
    found = read_json(path)
    sizes = sorted({figure["prompts"] for figure in found["figures"]})
    if len(sizes) < 3:
        raise Problem(
            f"{path} holds {len(sizes)} size(s); two say what the work costs, and a third is predicted",
            "Measure with `python benchmarks/growth.py --times 1 3 10`.",
        )
    lines = [
        f"{found['machine']}; teacher {found['teacher']}. From {sizes[0]:,} and {sizes[1]:,} prompts:",
        "",
        "| stage | prompts | predicted, s | measured, s | off | predicted, CPU s | measured, CPU s | off |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(figure["stage"] for figure in found["figures"]):
        one, two, *larger = sorted(
            (figure for figure in found["figures"] if figure["stage"] == name), key=lambda figure: figure["prompts"]
        )
        for figure in larger:
            cells = [compared(one, two, figure, kind) for kind in ("seconds", "cpu_seconds")]
            lines.append(f"| {name} | {figure['prompts']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def compared(one: Figure, two: Figure, larger: Figure, kind: str) -> str:
    """Predicted, measured, and how far off."""
    predicted = predict(one, two, larger, kind)
    return f"{predicted:.1f} | {larger[kind]:.1f} | {predicted / larger[kind] - 1:+.0%}"


def predict(one: Figure, two: Figure, larger: Figure, kind: str) -> float:
    """Seconds that a stage takes at a larger size, from two measured ones: one worker, a piece a token.

    A stage whose work is the same at both sizes takes what it took; the difference between them is noise.
    """
    first, second = work(one), work(two)
    if abs(second / first - 1) < SAME:
        return float((one[kind] + two[kind]) / 2)
    each = max(0.0, (two[kind] - one[kind]) / (second - first))
    fixed = max(0.0, one[kind] - each * first)
    return simulate(Stage(cut(work(larger), work(larger) / PIECES), [Phase(each)], start_seconds=fixed), {}).seconds


def work(figure: Figure) -> float:
    """What grows: tokens; prompts where nobody counts tokens; nothing in a stage that handles the student alone."""
    if figure["stage"] in CONSTANT:
        return 1.0
    return float(figure["tokens"] or figure["prompts"])


@dataclass(frozen=True)
class Rates:
    """What a run says of the machine it ran on.

    Args:
        tokens: stage → tokens a prompt. rate: stage → tokens a second. kept: bytes stored a token read.
        fixed: seconds of the stages whose work does not grow with the prompts. unmeasured: stages that grow, but
        did nothing there (shipped answers). machine: where it ran. passes: over the answers, in training.
    """

    tokens: Mapping[str, float]
    rate: Mapping[str, float]
    kept: float
    fixed: Mapping[str, float]
    unmeasured: Sequence[str]
    machine: str
    passes: float


def rates_of(run: Path) -> Rates:
    """Raises: Problem where a report is missing."""
    reports = {name: read_json(run / name / "report.json") for name in ("answers", "signals", "distill")}
    stages = read_json(run / "manifest.json")["stages"]
    prompts = reports["answers"]["answers"]
    read = reports["signals"]["tokens_read"]
    tokens = {"answers": reports["answers"]["tokens"], "signals": read, "distill": reports["distill"]["tokens"]}
    return Rates(
        {name: count / prompts for name, count in tokens.items()},
        {name: report["tokens_per_second"] for name, report in reports.items() if report["tokens_per_second"]},
        1e6 * reports["signals"]["megabytes"] / read,
        {name: stages[name]["seconds"] for name in ("vocab", "prune", "export") if name in stages},
        [name for name, report in reports.items() if not report["tokens_per_second"]],
        stages["distill"]["machine"],
        reports["distill"]["passes"],
    )


def run_table(run: Path, prompts: int, workers: int, storage: float) -> str:
    """What so many prompts would take on so many machines like the one of that run."""
    rates = rates_of(run)
    lines = [
        f"{prompts:,} prompts, {workers} × ({rates.machine}), storage of {storage / 1e6:g} MB/s for all; "
        f"{rates.passes:.1f} passes in training, as in that run, and what machines tell each other in it left out.",
        "",
        "| stage | tokens/s measured | tokens | hours | storage busy |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | nothing was done there | {rates.tokens[name] * prompts:,.0f} | | |"
            for name in rates.unmeasured
        ),
    ]
    for name, rate in rates.rate.items():
        tokens = rates.tokens[name] * prompts
        stored = {"signals": rates.kept, "distill": rates.kept}.get(name, 4.0)
        stage = Stage(cut(tokens, tokens / (PIECES * workers)), [Phase(1 / rate), Phase(stored, STORAGE)], workers)
        found = simulate(stage, {STORAGE: Resource(storage)})
        hours = found.seconds / 3600
        lines.append(f"| {name} | {rate:.0f} | {tokens:,.0f} | {hours:.2f} | {found.busy[STORAGE]:.0%} |")
    lines += [f"| {name} | | | {seconds / 3600:.2f} | |" for name, seconds in rates.fixed.items()]
    return "\n".join(lines)
