"""Stage `export`: the student as GGUF files, each proved before it is kept.

In:  `distill/student`, `signals/` (ids to read), the recipe's types.
Out: `export/<name>-<type>.gguf`, `report.json`.
Does not know: how the student was made, what it is scored on.
"""

from __future__ import annotations

from pathlib import Path

from potstill.problem import Problem
from potstill.run import Run, read_json, write_json

__all__ = ["export", "gguf_path"]


def export(run: Run, folder: Path) -> None:
    """Write every type; F16 must give the Transformers student's token ids and logits."""
    from potstill.export.proof import prove
    from potstill.models.checkpoint import read_header
    from potstill.models.gguf import write_gguf
    from potstill.models.teacher import find_teacher
    from potstill.signals.store import SignalStore

    checkpoint = run.stage("distill") / "student"
    teacher = find_teacher(run.recipe.teacher.model, run.home, run.progress)
    metadata = {
        "general.name": f"{run.recipe.name} student of {teacher.name}",
        "general.license": teacher.licence,
        "fingerprint": run.stamp(folder),
        "teacher": teacher.name,
        "teacher_sha256": teacher.sha256,
        "student_fingerprint": read_header(checkpoint).get("potstill.fingerprint", ""),
    }
    examples = SignalStore(run.stage("signals"), "train").examples
    files = []
    for quantisation in run.recipe.export.types:
        path = folder / f"{run.recipe.name}-{quantisation}.gguf"
        if not path.exists():
            write_gguf(checkpoint, path, quantisation, metadata=metadata, progress=run.progress)
        tolerance = run.recipe.export.tolerance if quantisation == "F16" else None
        difference = prove(checkpoint, path, examples, tolerance)
        files.append(
            {
                "name": path.name,
                "type": quantisation,
                "megabytes": path.stat().st_size / 1e6,
                "largest_difference": difference,
            }
        )
        run.progress.say(
            f"{path.name}: {path.stat().st_size / 1e6:.0f} MB, logits within {difference:.3g} of the float student"
        )
    write_json(folder / "report.json", {"files": files})


def gguf_path(run: Run, quantisation: str) -> Path:
    """The exported file of a type. Raises: Problem where `export` has not written it."""
    folder = run.stage("export")
    names = {entry["type"]: entry["name"] for entry in read_json(folder / "report.json")["files"]}
    if quantisation not in names:
        raise Problem(f"{folder} holds no {quantisation}", f"potstill export {run.folder}")
    return folder / str(names[quantisation])
