"""What a run's students are made of, as far as their shapes and their tokenizer go.

In:  a run, of which nothing but the recipe need be there; the home where models lie.
Out: a `Material`, the folder of a tokenizer, the name of the number format.
Does not know: candidates, measuring.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from potstill import pipeline
from potstill.fit.candidates import Material
from potstill.models.architecture import read_config
from potstill.models.base import find_base
from potstill.models.checkpoint import TOKENIZER_FILES
from potstill.models.mix import Mix
from potstill.models.teacher import find_teacher
from potstill.problem import Problem
from potstill.recipe import Recipe
from potstill.recipe.product import CHOSEN, GUARD
from potstill.run import Run, read_json, write_json
from potstill.vocab.foreign import foreign_base
from potstill.vocab.map import VocabMap
from potstill.vocab.subset import choose_tokens, subset_tokenizer


def find_material(run: Run, kind: str | None, folder: Path) -> tuple[Material, Path, str]:
    """Material, tokenizer, type.

    Args:
        kind: a type or a mix; None: what the recipe ships. folder: for a tokenizer, where the run has none yet.

    Raises: Problem where there is no such model, or the recipe leaves the type open.
    """
    kind = (kind or run.recipe.export.ship).removesuffix(GUARD)
    if kind == CHOSEN:
        raise Problem("the recipe leaves the type of its file to a measurement", "Give --type, such as --type Q4_0.")
    prune = run.recipe.prune
    base = find_base(prune.base or run.recipe.teacher.model, run.home, run.progress)
    tokenizer, vocabulary = _vocabulary(run, base, folder)
    return Material(read_config(base), vocabulary, prune, _mix(run.recipe, kind)), tokenizer, kind


def _mix(recipe: Recipe, kind: str) -> str | Mix:
    """What `models` knows a type of the recipe as."""
    own = next((mix for mix in recipe.export.mixes if mix.name == kind), None)
    return kind if own is None else Mix(own.name, own.base, own.tensors)


def _vocabulary(run: Run, base: Path, folder: Path) -> tuple[Path, VocabMap | None]:
    """The run's own; where it has none, or another recipe's, the teacher's first: speed hardly depends on which."""
    made, kept = run.folder / "vocab", run.folder / "vocab" / "vocab_map.safetensors"
    if made.is_dir() and run.fingerprint("vocab") == pipeline.fingerprints(run)["vocab"]:
        return made, VocabMap.load(kept) if kept.exists() else None
    teacher = find_teacher(run.recipe.teacher.model, run.home, run.progress).checkpoint
    if foreign_base(run, teacher) is not None:
        return base, None
    source = read_json(teacher / "tokenizer.json")
    vocabulary = VocabMap.from_kept(choose_tokens(source, {}, run.recipe.vocab.size))
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (teacher / name).exists():
            shutil.copyfile(teacher / name, folder / name)
    write_json(folder / "tokenizer.json", subset_tokenizer(source, vocabulary.teacher_ids.tolist()))
    return folder, vocabulary
