"""What time buys: the same recipes at several budgets, as a table and a picture.

    python benchmarks/budgets.py recipes/qwen-150m.toml recipes/published-qwen-150m.toml --minutes 30 60 120
    python benchmarks/budgets.py recipes/qwen-80m.toml --minutes 30 --rows docs/budgets.jsonl
    python benchmarks/budgets.py --rows docs/budgets.jsonl --picture docs/budgets.svg

Every run is a folder `<recipe>-<minutes>m` of --runs. Killed at any time, the same command goes on where it was. Stages
that an earlier run has done alike are copied, so that only training and what follows it is done for each budget.
A run is hours of work and its folder is large; what was measured of it stays in --rows, a line a run, and is shown with
the runs made now; without recipes it is all that is shown. Prints Markdown for docs/results.md. Needs an otherwise idle
machine: a budget is wall-clock time.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ablation import finish
from rich.console import Console

from potstill.recipe import load_recipe, with_options
from potstill.report.words import with_ends
from potstill.run import Run, default_home, read_json, write_text
from potstill.terminal import TerminalProgress

FURTHER = 10
"""Times the longest budget: how far the forecast looks."""
FILE = {
    "fidelity.kl": "KL, file",
    "fidelity.top1": "top-1, file",
    "code.runs": "code runs",
    "code.passes": "passes",
    "commonsense.error": "commonsense error",
    "stability.similarity": "similarity",
    "stability.repetition": "repetition",
    "stability.ended": "ended",
}
FLOAT = {"fidelity.kl": "KL, trained", "fidelity.top1": "top-1, trained"}
BESIDE = ("teacher", "smollm2-135m-instruct")
SPENT = ("seconds", "steps", "tokens", "passes")
MODELS = (*BESIDE, "healed", "trained", "student")


class Entry(NamedTuple):
    """A finished run: its recipe's name, minutes asked for, training report, scorecard."""

    recipe: str
    minutes: float
    report: dict[str, Any]
    scores: dict[str, dict[str, dict[str, Any]]]

    def value(self, metric: str, model: str) -> float:
        """NaN where it was not measured."""
        found = self.scores.get(metric, {}).get(model, {}).get("value")
        return math.nan if found is None else float(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", type=Path)
    parser.add_argument("--minutes", nargs="+", type=float, default=[30, 60, 120])
    parser.add_argument("--runs", type=Path, default=Path("runs/budgets"))
    parser.add_argument("--rows", type=Path, help="JSON lines of earlier runs, to which those made now are added")
    parser.add_argument("--picture", type=Path, help="an SVG of KL and top-1 against minutes and tokens")
    given = parser.parse_args()
    entries = done(given.recipes, sorted(given.minutes), given.runs)
    if given.rows:
        entries = kept(entries, given.rows)
    if not entries:
        parser.error("nothing to show: name a recipe, or a file of --rows that has some")
    print("\n".join([*table(entries), "", *forecasts(entries)]))
    if given.picture:
        draw(entries, given.picture)


def done(recipes: Sequence[Path], budgets: Sequence[float], runs: Path) -> list[Entry]:
    progress = TerminalProgress(Console(stderr=True))
    entries = []
    for path in recipes:
        for minutes in budgets:
            recipe = with_options(load_recipe(path), minutes, False)
            run = Run(runs / f"{recipe.name}-{minutes:g}m", recipe, default_home(), progress)
            if finish(run, [path.parent for path in sorted(runs.glob("*/manifest.json"))]):
                entries.append(read(run.folder, recipe.name, minutes))
    return entries


def read(folder: Path, recipe: str, minutes: float) -> Entry:
    return Entry(
        recipe,
        minutes,
        read_json(folder / "distill" / "report.json"),
        read_json(folder / "evaluate" / "scorecard.json"),
    )


def kept(entries: Sequence[Entry], rows: Path) -> list[Entry]:
    """The runs of `rows`, `entries` in place of those of the same recipe and budget; `rows` holds all of them then."""
    earlier = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
    known = {(one.recipe, one.minutes): one for one in [Entry(**json.loads(line)) for line in earlier] + [*entries]}
    lines = [json.dumps(essence(one)._asdict(), ensure_ascii=False) for one in known.values()]
    write_text(rows, "".join(f"{line}\n" for line in lines))
    return [one for runs in by_recipe([*known.values()]).values() for one in sorted(runs, key=lambda run: run.minutes)]


def essence(entry: Entry) -> Entry:
    """What table and picture use of it."""
    scores = {
        metric: {model: entry.scores[metric][model] for model in MODELS if model in entry.scores[metric]}
        for metric in FILE
        if metric in entry.scores
    }
    return entry._replace(report={name: entry.report[name] for name in SPENT}, scores=scores)


def table(entries: Sequence[Entry]) -> list[str]:
    """A row a run, above them what was measured beside one."""
    heads = ["model", "minutes", "used", "steps", "tokens", "passes of text", *FLOAT.values(), *FILE.values()]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for model in BESIDE:
        # In the first run that was measured beside it.
        cells = next(filter(any, ([cell(one, metric, model) for metric in FILE] for one in entries)), [])
        if cells:
            lines.append(f"| {model} | {' | '.join([''] * (len(heads) - len(cells) - 1) + cells)} |")
    for entry in entries:
        report = entry.report
        spent = [
            f"{entry.minutes:g}",
            f"{report['seconds'] / entry.minutes / 60 - 1:+.2%}",
            f"{report['steps']:,}",
            f"{report['tokens']:,.0f}",
            f"{report['passes']:.2f}",
        ]
        cells = [cell(entry, metric, "trained") for metric in FLOAT] + [
            cell(entry, metric, "student") for metric in FILE
        ]
        lines.append(f"| {' | '.join([entry.recipe, *spent, *cells])} |")
    counts = {metric: one.scores[metric]["student"]["n"] for one in entries for metric in FILE if metric in one.scores}
    return [
        *lines,
        "",
        "Items: "
        + ", ".join(f"{n} for {FILE[metric]}" for metric, n in counts.items())
        + ". Brackets: 95 % intervals.",
    ]


def cell(entry: Entry, metric: str, model: str) -> str:
    found = entry.scores.get(metric, {}).get(model, {})
    if found.get("value") is None:
        return ""
    return with_ends(found["value"], found.get("low"), found.get("high"))


def forecasts(entries: Sequence[Entry]) -> list[str]:
    """KL = b · minutes^-c through each recipe's budgets, drawn out to `FURTHER` times the longest."""
    lines = []
    for recipe, runs in by_recipe(entries).items():
        if len(runs) < 2:
            continue
        minutes = [run.minutes for run in runs]
        slope, height = np.polyfit(np.log(minutes), np.log([run.value("fidelity.kl", "trained") for run in runs]), 1)
        far = FURTHER * max(minutes)
        lines.append(
            f"{recipe}: KL = {math.exp(height):.3f} · minutes^{slope:.3f} through {len(runs)} budgets; "
            f"at {far:,.0f} minutes it would say {math.exp(height) * far**slope:.3f} nats, if nothing bends."
        )
    return lines


def by_recipe(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.recipe, []).append(entry)
    return found


def draw(entries: Sequence[Entry], path: Path) -> None:
    """Two metrics against time and against tokens; a line begins at the student before its training."""
    import matplotlib

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "potstill"})
    from matplotlib import pyplot, ticker

    figure, frames = pyplot.subplots(2, 2, figsize=(9, 6), sharex="col", sharey="row", layout="constrained")
    for recipe, runs in by_recipe(entries).items():
        for row, metric in enumerate(FLOAT):
            start = runs[0].value(metric, "healed")
            up = [start, *(run.value(metric, "trained") for run in runs)]
            for column, across in enumerate(
                ([run.minutes for run in runs], [run.report["tokens"] / 1000 for run in runs])
            ):
                frames[row, column].plot([0, *across], up, marker="o", label=recipe)
    for frame, name in zip(frames[:, 0], ("KL to the teacher, nats", "top-1 agreement"), strict=True):
        frame.set_ylabel(name)
    frames[0, 0].set_yscale("log")  # an unhealed cut lies many nats away
    frames[0, 0].yaxis.set_major_locator(ticker.LogLocator(subs=(0.25, 0.5, 1)))
    frames[0, 0].yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    frames[0, 0].yaxis.set_minor_locator(ticker.NullLocator())
    for frame, name in zip(frames[1], ("minutes of training", "thousand tokens"), strict=True):
        frame.set_xlabel(name)
    for frame in frames.flat:
        frame.grid(alpha=0.3)
    frames[0, 0].legend()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
