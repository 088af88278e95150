"""The rungs of a ladder: one run a size, alike in all but the student's size.

In:  a recipe, sizes in parameters, training time for all together, the folder for the runs.
Out: `Rung`s, each an ordinary run with layers and parameters of its own.
Does not know: how a run is made, what it reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.models.base import find_base, read_config
from potstill.problem import Problem
from potstill.progress import Progress
from potstill.prune.depth import sensible_layers
from potstill.prune.shape import ROW, choose_shape, count_parameters
from potstill.recipe import Recipe, with_options
from potstill.recipe.student import PruneSection
from potstill.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


SLOWEST = 0.1
"""Share of the recipe's learning rate that a size is left with of which hardly anything is cut."""
WHOLE = dict.fromkeys(("layers", "ffn", "parameters", "hidden", "heads", "kv_heads"))
"""A base as it is."""


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
    config = read_config(find_base(recipe.prune.base or recipe.teacher.model, home, progress))
    each = minutes / len(sizes) if minutes is not None else None
    rungs = []
    for size in sizes:
        name = f"{size / 1e6:g}M"
        wanted = with_options(sized(recipe, config, size), each, False)
        wanted = wanted.model_copy(update={"name": f"{recipe.name}-{name}"})
        rungs.append(Rung(name, Run(folder / name, wanted, home, progress)))
    return rungs


def sized(recipe: Recipe, config: PreTrainedConfig, parameters: int) -> Recipe:
    """The recipe for another size: layers by `sensible_layers`, the feed-forward as wide as is left.

    A size that is cut less than the recipe's own moves slower in proportion: it has less to learn, and more that a
    step can spoil.

    Raises: Problem where no shape has so many parameters.
    """
    # A base of its own may bring a tokenizer of its own; then all of it stays.
    tokens = config.vocab_size if recipe.prune.base else min(recipe.vocab.size, config.vocab_size)
    least = recipe.prune.model_copy(update={"layers": 1, "ffn": ROW})
    layers = sensible_layers(config, choose_shape(config, tokens, least), parameters)
    section = recipe.prune.model_copy(update={"layers": layers, "ffn": None, "parameters": parameters})
    choose_shape(config, tokens, section)
    slower = _slower(recipe, config, tokens, section)
    distill = recipe.distill.model_copy(update={"learning_rate": slower * recipe.distill.learning_rate})
    return recipe.model_copy(update={"prune": section, "distill": distill})


def _slower(recipe: Recipe, config: PreTrainedConfig, tokens: int, section: PruneSection) -> float:
    """What the recipe's learning rate is multiplied by for the size of `section`, from `SLOWEST` to 1."""
    if section.initialise == "random":
        return 1.0
    try:
        own = _cut(config, tokens, recipe.prune)
    except Problem:  # a shape for another base says nothing here
        return 1.0
    return max(SLOWEST, min(1.0, _cut(config, tokens, section) / own)) if own else 1.0


def _cut(config: PreTrainedConfig, tokens: int, section: PruneSection) -> float:
    """Share of the body (all but the embeddings) that is cut away."""

    def body(section: PruneSection) -> int:
        spec = choose_shape(config, tokens, section)
        return count_parameters(config, spec) - count_parameters(config, replace(spec, layers=0))

    return 1 - body(section) / body(section.model_copy(update=WHOLE))
