"""Who is measured: the teacher, the student that ships, its other files, and whoever else the user names.

In:  a run whose stages up to `export` are done.
Out: GGUFs by the name they have in the scorecard.
Does not know: what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from potstill.evaluate.scorecard import STUDENT, TEACHER
from potstill.export import gguf_path
from potstill.models.catalogue import CATALOGUE, entry_named
from potstill.models.gguf_adapter import named_adapters
from potstill.models.gguf_reader import check_gguf
from potstill.models.teacher import find_teacher
from potstill.problem import Problem
from potstill.run import Run


@dataclass(frozen=True)
class Contest:
    """GGUFs by name.

    Args:
        models: teacher and student, then the others. variants: the student in types that do not ship, and what ships
        with an adapter. adapted: of these, the ones with an adapter.
    """

    models: dict[str, Path]
    variants: dict[str, Path]
    adapted: tuple[str, ...] = ()


def find_contest(run: Run) -> Contest:
    """Find all files. Raises: Problem where one that the recipe names is no GGUF."""
    export = run.recipe.export
    models = {
        TEACHER: find_teacher(run.recipe.teacher.model, run.home, run.progress).gguf,
        STUDENT: gguf_path(run, export.ship),
    }
    for named in run.recipe.evaluate.against:
        name, gguf = _other(named, run)
        models[name if name not in models else f"{name}-{len(models)}"] = gguf
    variants = {f"{STUDENT}-{kind}": gguf_path(run, kind) for kind in export.types if kind != export.ship}
    adapted = {f"{STUDENT}-{name}": path for name, path in named_adapters(models[STUDENT]).items()}
    return Contest(models, {**variants, **adapted}, tuple(adapted))


def require_other(named: str) -> None:
    """Raises: Problem unless this can be scored beside: the path of a GGUF, or a name of the catalogue."""
    if entry_named(named):
        return
    path = Path(named).expanduser()
    if not path.is_file():
        known = ", ".join(entry.name for entry in CATALOGUE)
        raise Problem(f"{named}: neither a GGUF file nor a known model", f"Give a path, or one of: {known}.")
    check_gguf(path)


def _other(named: str, run: Run) -> tuple[str, Path]:
    require_other(named)
    if entry_named(named):
        return named, find_teacher(named, run.home, run.progress).gguf
    path = Path(named).expanduser()
    return path.stem, path
