"""What a run's students are made of, as far as their shapes and their tokenizer go.

In:  a run, of which nothing but the recipe need be there; the home where models lie.
Out: a `Material`, the folder of a tokenizer, the name of the number format.
Does not know: candidates, measuring.
"""

from __future__ import annotations

from pathlib import Path

from potstill import pipeline
from potstill.fit.candidates import Material
from potstill.models.architecture import read_config
from potstill.models.base import find_base
from potstill.models.checkpoint import copy_tokenizer
from potstill.models.mix import mix_of
from potstill.models.teacher import find_teacher
from potstill.problem import Problem
from potstill.recipe import Recipe, with_types
from potstill.recipe.product import CHOSEN, GUARD
from potstill.run import Run, read_json, write_json
from potstill.vocab.foreign import foreign_base
from potstill.vocab.map import MAP, VocabMap
from potstill.vocab.subset import choose_tokens, subset_tokenizer


def type_of(recipe: Recipe, kind: str | None) -> str:
    """The type of the files that are measured. Raises: Problem where there is none such, or the recipe leaves it open.

    Args:
        kind: a type or a mix; None: what the recipe ships.
    """
    kind = (kind or recipe.export.ship).removesuffix(GUARD)
    if kind == CHOSEN:
        raise Problem("the recipe leaves the type of its file to a measurement", "Give --type, such as --type Q4_0.")
    with_types(recipe, list(dict.fromkeys([kind, *recipe.export.types])))
    return kind


def find_material(run: Run, kind: str, folder: Path) -> tuple[Material, Path]:
    """Material, tokenizer.

    Args:
        kind: as `type_of` gives it. folder: for a tokenizer, where the run has none yet.

    Raises: Problem where there is no such model.
    """
    prune = run.recipe.prune
    base = find_base(prune.base or run.recipe.teacher.model, run.home, run.progress)
    tokenizer, vocabulary = _vocabulary(run, base, folder)
    return Material(read_config(base), vocabulary, prune, mix_of(kind, run.recipe.export.mixes)), tokenizer


def _vocabulary(run: Run, base: Path, folder: Path) -> tuple[Path, VocabMap | None]:
    """The run's own; where it has none, or another recipe's, the teacher's first: speed hardly depends on which."""
    made, kept = run.folder / "vocab", run.folder / "vocab" / MAP
    if made.is_dir() and run.fingerprint("vocab") == pipeline.fingerprints(run)["vocab"]:
        return made, VocabMap.load(kept) if kept.exists() else None
    teacher = find_teacher(run.recipe.teacher.model, run.home, run.progress).checkpoint
    if foreign_base(run, teacher) is not None:
        return base, None
    source = read_json(teacher / "tokenizer.json")
    vocabulary = VocabMap.from_kept(choose_tokens(source, {}, run.recipe.vocab.size))
    folder.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(teacher, folder)
    write_json(folder / "tokenizer.json", subset_tokenizer(source, vocabulary.teacher_ids.tolist()))
    return folder, vocabulary
