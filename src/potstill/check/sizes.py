"""How large teacher and student are, before either is loaded.

In:  a recipe; configurations of models that are here already.
Out: `Sizes`, in parameters.
Does not know: weights, text, machines, time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from potstill.models.base import known_config, known_folder, same_tokens
from potstill.models.catalogue import CATALOGUE, entry_named
from potstill.prune.shape import StudentSpec, choose_shape, count_parameters
from potstill.recipe import PruneSection, Recipe

TEACHER: Any = SimpleNamespace(
    model_type="qwen2",
    hidden_size=896,
    num_hidden_layers=24,
    intermediate_size=4864,
    num_attention_heads=14,
    num_key_value_heads=2,
    tie_word_embeddings=True,
    vocab_size=151_936,
)
"""The default teacher's shape, which may not be here yet; a guess for another one that is not."""


@dataclass(frozen=True)
class Sizes:
    """Parameters of the two models.

    Args:
        teacher: all of the teacher's. body: those outside its embeddings, which reading costs. head: those that
        its logits cost.
        known: whether the teacher's shape is more than a guess.
        student: all of the student's. shape: the student's in words; None where what it is cut from is not here.
    """

    teacher: int
    body: int
    head: int
    known: bool
    student: int
    shape: str | None


def size_up(recipe: Recipe, home: Path) -> Sizes:
    """Sizes from the configurations that are here, or else as if each were the default teacher's.

    Raises: Problem where the model that the student is cut from cannot give the shape that is asked for.
    """
    found = _config(recipe.teacher.model, home)
    teacher = found or TEACHER
    whole = choose_shape(teacher, teacher.vocab_size, PruneSection.model_validate({"layers": None, "parameters": None}))
    student, shape = _student(recipe, home)
    body, head = count_parameters(teacher, replace(whole, vocabulary=0)), teacher.vocab_size * teacher.hidden_size
    parameters, entry = count_parameters(teacher, whole), entry_named(recipe.teacher.model)
    if found is None and entry is not None:  # its size is known, how it is divided is a guess
        share = entry.parameters / parameters
        parameters, body, head = entry.parameters, round(body * share), round(head * share)
    return Sizes(parameters, body, head, found is not None, student, shape)


def _student(recipe: Recipe, home: Path) -> tuple[int, str | None]:
    """Parameters, and the shape in words where it can be told."""
    prune = recipe.prune
    base = _config(prune.base or recipe.teacher.model, home)
    if base is not None:
        tokens = base.vocab_size if _speaks_otherwise(recipe, base, home) else min(recipe.vocab.size, base.vocab_size)
        spec = choose_shape(base, tokens, prune)
        return count_parameters(base, spec), spec.describe()
    if prune.parameters is not None and not (prune.layers and prune.ffn):
        return prune.parameters, None
    return count_parameters(TEACHER, _guess(recipe)), None


def _speaks_otherwise(recipe: Recipe, base: Any, home: Path) -> bool:
    """Whether the student is cut from a model with a tokenizer of its own, all of which it keeps."""
    if recipe.prune.base is None:
        return False
    folders = [known_folder(name, home) for name in (recipe.prune.base, recipe.teacher.model)]
    if None in folders:
        teacher = _config(recipe.teacher.model, home) or TEACHER
        return str(base.model_type) != str(teacher.model_type)  # a guess
    return not same_tokens(*filter(None, folders))


def _guess(recipe: Recipe) -> StudentSpec:
    smallest = choose_shape(TEACHER, recipe.vocab.size, PruneSection.model_validate({"layers": 1, "ffn": 32}))
    layers = recipe.prune.layers or TEACHER.num_hidden_layers
    return replace(smallest, layers=layers, ffn=recipe.prune.ffn or TEACHER.intermediate_size)


def _config(name: str, home: Path) -> Any | None:
    return TEACHER if name == CATALOGUE[0].name else known_config(name, home)
