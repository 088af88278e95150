"""Stage `export`: the student as GGUF files, each proved before it is kept.

In:  `distill/student`, `signals/` (ids to read), the recipe's types.
Out: `export/<name>-<type>.gguf` (and `.adapter.gguf` of a guarded one, `.<category>.adapter.gguf` where an adapter was
     trained), `report.json`.
Does not know: how the student was made, what it is scored on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from potstill.problem import Problem
from potstill.run import Run, read_json, write_json

__all__ = ["export", "gguf_path"]


def export(run: Run, folder: Path) -> None:
    """Write every type, and the one that is chosen by size or KL; F16 must give the student's token ids and logits."""
    from potstill.export.choosing import choice_rows, choose
    from potstill.export.writing import StudentFiles

    section = run.recipe.export
    student = StudentFiles(run, folder, run.stamp(folder))
    files = [student.write(kind) for kind in section.types]
    report: dict[str, Any] = {"files": files}
    if section.target_mb or section.max_kl:
        choice = choose(run, student.moments, target_mb=section.target_mb, max_kl=section.max_kl)
        files.append(student.write_chosen(choice.name))
        report["choice"] = choice_rows(choice)
    write_json(folder / "report.json", report)


def gguf_path(run: Run, quantisation: str) -> Path:
    """The exported file of a type. Raises: Problem where `export` has not written it."""
    folder = run.stage("export")
    names = {entry["type"]: entry["name"] for entry in read_json(folder / "report.json")["files"]}
    if quantisation not in names:
        raise Problem(f"{folder} holds no {quantisation}", f"potstill export {run.folder}")
    return folder / str(names[quantisation])
