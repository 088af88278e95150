"""The rungs of a ladder: one run a size, alike in all but the student's size.

In:  a recipe, sizes in parameters, training time for all together, the folder for the runs.
Out: `Rung`s, each an ordinary run with layers and parameters of its own.
Does not know: how a run is made, what it reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.models.architecture import read_config
from potstill.models.base import find_base, same_tokens
from potstill.progress import Progress
from potstill.prune.depth import sensible_layers
from potstill.prune.shape import ROW, choose_shape
from potstill.recipe import Recipe, with_options
from potstill.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Rung:
    """One size: what it is called, and its run."""

    name: str
    run: Run


def plan(
    recipe: Recipe, sizes: Sequence[int], minutes: float | None, folder: Path, home: Path, progress: Progress
) -> list[Rung]:
    """A rung for each size, in the order given.

    Every size gets the same training time: what a person compares is what the same patience buys. A smaller student
    makes more steps in it.

    Args:
        sizes: parameters. minutes: of all sizes together; None: each trains as long as the recipe says.

    Raises: Problem where a size is out of reach of the model it is cut from.
    """
    teacher = find_base(recipe.teacher.model, home, progress)
    base = find_base(recipe.prune.base, home, progress) if recipe.prune.base else teacher
    config, foreign = read_config(base), base != teacher and not same_tokens(base, teacher)
    tokens = config.vocab_size if foreign else min(recipe.vocab.size, config.vocab_size)
    each = minutes / len(sizes) if minutes is not None else None
    rungs = []
    for size in sizes:
        name = f"{size / 1e6:g}M"
        wanted = with_options(sized(recipe, config, tokens, size), each, False)
        wanted = wanted.model_copy(update={"name": f"{recipe.name}-{name}"})
        rungs.append(Rung(name, Run(folder / name, wanted, home, progress)))
    return rungs


def sized(recipe: Recipe, config: PreTrainedConfig, tokens: int, parameters: int) -> Recipe:
    """The recipe for another size: layers by `sensible_layers`, the feed-forward as wide as is left.

    Args:
        config: of the model the student is cut from. tokens: that the student will have.

    Raises: Problem where no shape has so many parameters.
    """
    least = recipe.prune.model_copy(update={"layers": 1, "ffn": ROW})
    layers = sensible_layers(config, choose_shape(config, tokens, least), parameters)
    section = recipe.prune.model_copy(update={"layers": layers, "ffn": None, "parameters": parameters})
    choose_shape(config, tokens, section)
    return recipe.model_copy(update={"prune": section})
