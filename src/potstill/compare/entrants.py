"""The runs that are compared: what each measured, which are seeds of one recipe, what differs between recipes.

In:  run folders that have been evaluated.
Out: `Entrant`s, the keys of their recipes that differ.
Does not know: intervals, tables, pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.evaluate.items import Items
from potstill.evaluate.scorecard import Measure, read_measures
from potstill.pipeline import require_one_student
from potstill.problem import Problem
from potstill.report.words import without_folders
from potstill.run import open_run, read_json

NAMES = ("name", "seed")
"""Keys in which runs of one recipe may differ."""


@dataclass(frozen=True)
class Finished:
    """One evaluated run: its recipe as flat keys, its scorecard, its items (empty where it kept none)."""

    folder: Path
    recipe: dict[str, Any]
    measures: dict[str, dict[str, Measure]]
    items: Items


@dataclass(frozen=True)
class Entrant:
    """One recipe: a run, or several that differ in nothing but their seed."""

    name: str
    runs: tuple[Finished, ...]


def read_runs(folders: Sequence[Path]) -> list[Finished]:
    """Read run folders. Raises: Problem where one is no run, not evaluated, or has another student since."""
    if len({folder.resolve() for folder in folders}) < 2:
        raise Problem("comparing takes two runs or more", "Example: potstill compare runs/demo runs/other")
    return [_read(folder) for folder in folders]


def _read(folder: Path) -> Finished:
    opened = open_run(folder)
    require_one_student(opened)
    recipe = without_folders(opened.recipe.model_dump(mode="json"))
    card = folder / "evaluate" / "scorecard.json"
    if not card.exists():
        raise Problem(f"{folder} has not been measured", opened.command("evaluate"))
    items = folder / "evaluate" / "items.json"
    return Finished(folder, dict(_flat(recipe)), read_measures(card), read_json(items) if items.exists() else {})


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, one in value.items():
            yield from _flat(one, f"{place}.{key}" if place else key)
    else:
        yield place, value


def grouped(runs: Sequence[Finished]) -> list[Entrant]:
    """Runs by recipe, in the order they were given.

    Runs of one recipe and one seed stay apart: whoever compares them wants to see what else has changed. So do the
    seeds of a single recipe, which would leave nothing to compare.
    """
    groups: list[list[Finished]] = []
    for run in runs:
        group = next((group for group in groups if _joins(run, group)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    if len(groups) == 1:
        groups = [[run] for run in runs]
    return [Entrant(name, tuple(group)) for name, group in zip(_names(groups), groups, strict=True)]


def _names(groups: Sequence[Sequence[Finished]]) -> list[str]:
    """By recipe, or by folder where recipes share a name, or by the whole path where folders do too."""
    choices = ([_name(group) for group in groups], [group[0].folder.name for group in groups])
    whole = [str(group[0].folder) for group in groups]
    return next((names for names in choices if len(set(names)) == len(names)), whole)


def _joins(run: Finished, group: Sequence[Finished]) -> bool:
    seeds = {one.recipe["seed"] for one in group}
    return run.recipe["seed"] not in seeds and _asked(run) == _asked(group[0])


def _asked(run: Finished) -> dict[str, Any]:
    return {key: value for key, value in run.recipe.items() if key not in NAMES}


def _name(group: Sequence[Finished]) -> str:
    name = str(group[0].recipe["name"])
    return name if len(group) == 1 else f"{name} ({len(group)} seeds)"


def differences(entrants: Sequence[Entrant]) -> dict[str, list[Any]]:
    """Key of the recipe → its value in each, for the keys in which they differ; a missing key is None."""
    recipes = [one.runs[0].recipe for one in entrants]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    told = {key: [recipe.get(key) for recipe in recipes] for key in keys if key not in NAMES}
    return {key: values for key, values in told.items() if any(value != values[0] for value in values)}
