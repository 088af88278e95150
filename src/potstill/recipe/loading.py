"""Recipe files: read, validated, every mistake told at once.

In:  a TOML file written by a person; what the command line adds.
Out: a `Recipe` with every path made absolute, or one `Problem`.
Does not know: run folders, stages, models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from potstill.problem import Problem
from potstill.recipe.material import TeacherSection
from potstill.recipe.whole import Recipe
from potstill.toml import read_toml, validated


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe file.

    Paths inside it are taken relative to the file. Raises: Problem naming every mistake at once.
    """
    data = read_toml(path, "Recipes that ship with potstill lie in recipes/.")
    return _resolved(validate_recipe(data, str(path)), path.resolve().parent)


def validate_recipe(data: dict[str, Any], place: str) -> Recipe:
    """A `Recipe` from parsed TOML; `place` names the file in the error. Strict: "3" is not a number."""
    return validated(Recipe, data, place, "`potstill schema` lists every key.")


def _resolved(recipe: Recipe, folder: Path) -> Recipe:
    files = tuple(file.model_copy(update={"path": folder / file.path}) for file in recipe.prompts.files)
    sets = tuple(file.model_copy(update={"path": folder / file.path}) for file in recipe.evaluate.files)
    against = tuple(str(folder / one) if (folder / one).exists() else one for one in recipe.evaluate.against)
    model = recipe.teacher.model
    if (folder / model).exists():
        model = str(folder / model)
    base = recipe.prune.base
    if base is not None and (folder / base).exists():
        base = str(folder / base)
    cut = {"base": base, "texts": tuple(folder / text for text in recipe.prune.texts)}
    guard = recipe.export.guard_tokens
    return recipe.model_copy(
        update={
            "teacher": TeacherSection(model=model),
            "prompts": recipe.prompts.model_copy(update={"files": files}),
            "vocab": recipe.vocab.model_copy(update={"texts": tuple(folder / text for text in recipe.vocab.texts)}),
            "prune": recipe.prune.model_copy(update=cut),
            "export": recipe.export.model_copy(update={"guard_tokens": guard and folder / guard}),
            "evaluate": recipe.evaluate.model_copy(update={"files": sets, "against": against}),
        }
    )


def with_evaluation(recipe: Recipe, few: bool, fresh: bool, against: Sequence[str]) -> Recipe:
    """The recipe with what `potstill evaluate` was told; no other models: those the recipe names."""
    told: dict[str, Any] = {"few": few, "fresh": fresh, **({"against": tuple(against)} if against else {})}
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update=told)})


def with_options(recipe: Recipe, minutes: float | None, skip_bad: bool) -> Recipe:
    """The recipe with what the command line says: another training time (None: its own); bad lines skipped."""
    if minutes is not None:
        recipe = recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"budget_minutes": minutes})})
    if skip_bad:
        recipe = recipe.model_copy(update={"prompts": recipe.prompts.model_copy(update={"skip_bad": True})})
    return recipe


def with_server(recipe: Recipe, address: str | None) -> Recipe:
    """The recipe with answers that are asked from a server: others than the teacher's, so they are part of it.

    None: the teacher's again.
    """
    return recipe.model_copy(update={"answers": recipe.answers.model_copy(update={"server": address})})


def with_types(recipe: Recipe, types: Sequence[str]) -> Recipe:
    """The recipe with other types to export; what ships stays where it is among them, else it is the first.

    Raises: Problem for a type that is none.
    """
    ship = recipe.export.ship if recipe.export.ship in types else types[0]
    told = recipe.export.model_dump(mode="json") | {
        "types": list(types),
        "ship": ship,
        "target_mb": None,
        "max_kl": None,
    }
    return validate_recipe({**recipe.model_dump(mode="json"), "export": told}, "--type")


def with_target(recipe: Recipe, target_mb: float | None, max_kl: float | None) -> Recipe:
    """The recipe with what `potstill export` was told: the mix is chosen by measuring, and that is what ships.

    Raises: Problem for a number that is not above 0.
    """
    for option, wished in (("--target-mb", target_mb), ("--max-kl", max_kl)):
        if wished is not None and not 0 < wished < math.inf:
            raise Problem(f"{option} = {wished:g} asks for nothing", "Give a number above 0.")
    told = recipe.export.model_dump(mode="json") | {"target_mb": target_mb, "max_kl": max_kl, "ship": "chosen"}
    option = "--target-mb" if target_mb is not None else "--max-kl"
    return validate_recipe({**recipe.model_dump(mode="json"), "export": told}, option)
