"""The verbs for those who choose a size: fit (the shape for a device) and ladder (a whole family of sizes).

In:  what was typed.
Out: commands on the app of `cli`; the reading of quantities such as 150ms, 100MB, 300M, 2h.
Does not know: how anything is done. Heavy imports happen inside the verb that needs them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from potstill.cli_shown import Json, progress, refuse_what_cannot_fit, show_table
from potstill.problem import Problem

if TYPE_CHECKING:
    from potstill.fit.finding import Finding

MINUTES = {"s": 1 / 60, "m": 1.0, "h": 60.0}
MILLISECONDS = {"ms": 1.0, "s": 1000.0}
MEGABYTES = {"KB": 1e-3, "MB": 1.0, "GB": 1e3}
PARAMETERS = {"K": 1e3, "M": 1e6, "B": 1e9}


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (fit, ladder):
        app.command()(verb)


def quantity(option: str, text: str, units: Mapping[str, float], what: str, example: str) -> float:
    """A positive number in the unit that counts 1; a plain number is in that unit. Raises: Problem."""
    longest = sorted(units, key=len, reverse=True)
    unit = next((name for name in longest if text.strip().lower().endswith(name.lower())), "")
    try:
        value = float(text.strip()[: -len(unit) or None]) * units.get(unit, 1.0)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise Problem(f"{option} {text} is not {what}", f"Write it like {example}.")
    return value


def minutes(text: str) -> float:
    """Minutes from `90s`, `10m`, `1.5h` or a plain number of minutes. Raises: Problem."""
    return quantity("--budget", text, MINUTES, "a time", "90s, 10m or 1.5h")


def sizes(text: str) -> list[int]:
    """Parameters from `300M,150M,80M`. Raises: Problem, also where one is named twice."""
    found = [
        round(quantity("--sizes", one, PARAMETERS, "a number of parameters", "300M,150M,80M"))
        for one in text.split(",")
    ]
    if len(set(found)) < len(found):
        raise Problem(f"--sizes {text} names a size twice", "Write it like 300M,150M,80M.")
    return found


def fit(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE|RUN]", help="What students are cut from; speed alone if not given."),
    ] = None,
    decode: Annotated[float | None, typer.Option(help="Tokens a second, at least.")] = None,
    first_token: Annotated[str | None, typer.Option(help="Wait for the first token, at most: 150ms, 0.2s.")] = None,
    size: Annotated[str | None, typer.Option(help="Largest file: 100MB.")] = None,
    memory: Annotated[str | None, typer.Option(help="Most memory while answering: 300MB.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Format of the file; the recipe's if not given.")] = None,
    candidates: Annotated[int, typer.Option(min=1, max=40, help="Shapes to try.")] = 12,
    speed_only: Annotated[bool, typer.Option("--speed-only", help="Speed, no quality: minutes.")] = False,
    heal_tokens: Annotated[int, typer.Option(min=256, help="Tokens read to heal each shape.")] = 8000,
    answers: Annotated[int, typer.Option(min=1, help="Held-out answers to compare.")] = 24,
    run: Annotated[Path | None, typer.Option("--run", help="Run folder; runs/<recipe's name> if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Which student shape fits this device: run it on the device.

    Writes real files of random weights in a dozen shapes, times them in turn, drops those that miss a limit, heals the
    others briefly and proposes the best three, with the lines for a recipe. Ctrl-C at any time; the same command goes
    on where it was, and other limits measure nothing twice.

    Example:  potstill fit recipes/demo.toml --decode 60 --first-token 150ms --size 100MB
    """
    from potstill.fit import Limits, Wishes
    from potstill.fit import fit as find

    limits = Limits(
        decode_tok_s=decode,
        first_token_ms=_given("--first-token", first_token, MILLISECONDS, "a wait", "150ms or 0.2s"),
        size_mb=_given("--size", size, MEGABYTES, "a size", "100MB or 0.1GB"),
        memory_mb=_given("--memory", memory, MEGABYTES, "a size", "300MB or 0.3GB"),
    )
    wishes = Wishes(kind, candidates, source is not None and not speed_only, heal_tokens, answers)
    _show_finding(find(_opened(source, run), limits, wishes), as_json)


def _show_finding(finding: Finding, as_json: bool) -> None:
    """The table, lines for a recipe, and on stderr what excludes what. Raises: Problem where nothing fits."""
    if as_json:
        typer.echo(json.dumps(finding.to_json(), ensure_ascii=False, indent=1))
    else:
        show_table(*finding.table())
        typer.echo("\n" + "\n\n".join(finding.snippets()))
    for line in finding.explain():
        typer.echo(line, err=True)
    if finding.why_not_healed:
        typer.echo(f"Quality is not measured: {finding.why_not_healed}.", err=True)
    if not finding.proposals:
        raise Problem("no shape meets every limit", "Above is which limit excludes what, and by how much; relax one.")


def ladder(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe; its own shape does not count.")],
    sizes_: Annotated[str, typer.Option("--sizes", help="Parameters of each student: 300M,230M,150M,80M.")],
    budget: Annotated[
        str | None, typer.Option(help="Training time of all together: 2h; if not given, each has the recipe's.")
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder of the runs; runs/<recipe's name>-ladder.")] = None,
    as_json: Json = False,
) -> None:
    """A family of students in one go: quality against megabytes and tokens a second.

    Prompts to signals are made once and shared; each size is an ordinary run folder. The training time is split
    equally. A size that fails is named and stops no other. Ctrl-C at any time; the same command goes on.

    Example:  potstill ladder recipes/qwen-150m.toml --sizes 300M,230M,150M,80M --budget 2h
    """
    from potstill import pipeline
    from potstill.ladder import climb, plan
    from potstill.recipe import load_recipe
    from potstill.run import default_home

    wanted, parameters = load_recipe(recipe), sizes(sizes_)
    folder = runs or Path("runs") / f"{wanted.name}-ladder"
    rungs = plan(wanted, parameters, minutes(budget) if budget else None, folder, default_home(), progress())
    for rung in rungs:
        done = [stage.name for stage in pipeline.states(rung.run) if stage.state == "done"]
        if len(done) < len(pipeline.STAGES):
            refuse_what_cannot_fit(rung.run, done)
    found = climb(rungs, folder)
    if as_json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False, indent=1))
    else:
        show_table(*found.table())
    for line in found.failures():
        typer.echo(line, err=True)
    typer.echo(f"Page: {found.page}", err=True)
    raise typer.Exit(1 if found.failures() else 0)


def _given(option: str, text: str | None, units: Mapping[str, float], what: str, example: str) -> float | None:
    return None if text is None else quantity(option, text, units, what, example)


def _opened(source: Path | None, folder: Path | None) -> Any:
    """The run that is fitted: one that is there, or one of a recipe; without either, the default recipe's."""
    from potstill.recipe import load_recipe, validate_recipe
    from potstill.run import Run, default_home, open_run

    if source is not None and source.is_dir():
        return open_run(source, progress=progress())
    wanted = validate_recipe({"name": "fit"}, "fit") if source is None else load_recipe(source)
    return Run(folder or Path("runs") / wanted.name, wanted, default_home(), progress())
