"""What all verbs share: the option --json, tables, progress, the refusal of a run that cannot fit.

In:  rows, a run.
Out: text for people on stdout, bars and lines on stderr, or a Problem.
Does not know: any verb. Heavy imports happen inside.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of words for people.")]


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], as_json: bool = False) -> None:
    """A table, or its rows as JSON objects."""
    if as_json:
        typer.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], ensure_ascii=False, indent=1))
        return
    from rich.console import Console

    from potstill.terminal import table

    Console().print(table(title, columns, rows))


def progress() -> Any:
    """Bars and lines on stderr."""
    from rich.console import Console

    from potstill.terminal import TerminalProgress

    return TerminalProgress(Console(stderr=True))


def refuse_another_s_run(run: Any) -> None:
    """Stop before any work where the folder is at work already, or is the run of another recipe. Raises: Problem."""
    from potstill.models.identity import read_object
    from potstill.problem import Problem

    if (run.folder / "recipe.json").exists():
        with run.alone():  # said now, not after a forecast for a machine that is busy with it
            kept = read_object(run.folder / "recipe.json").get("name")
        if kept not in (None, run.recipe.name):
            raise Problem(
                f"{run.folder} is a run of the recipe {kept!r}, not of {run.recipe.name!r}",
                "Give another --run, or give the recipe that name.",
            )


def refuse_what_cannot_fit(run: Any, done: Collection[str] = ()) -> None:
    """Stop before any work where disk or memory cannot hold the run. Raises: Problem.

    Args:
        done: stages that are finished.
    """
    from potstill.check import refuse

    refuse(run.recipe, run.folder, run.home, done)
