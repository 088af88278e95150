"""Packs made from a finished run.

In:  `export/` and, where they are there, `evaluate/` and the manifest of a run.
Out: one folder a kind, whole or not at all.
Does not know: how the student was made; where packs are installed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, Literal

from potstill.machine import require_space
from potstill.models.gguf_adapter import adapter_beside, adapter_name, adapter_path, named_adapters
from potstill.models.gguf_reader import read_metadata
from potstill.models.identity import sha256_of
from potstill.pack.card import Shipped, model_card
from potstill.pack.guides import modelfile, run_guide
from potstill.pack.manifest import (
    FORMAT,
    FORMAT_VERSION,
    Kind,
    Manifest,
    PackFile,
    PackSize,
    PackTeacher,
    plain_name,
    read_manifest,
    write_manifest,
)
from potstill.pack.runtime import runtime
from potstill.pipeline import require_one_student
from potstill.problem import Problem
from potstill.report.material import read_material
from potstill.report.words import without_folders
from potstill.run import Run, read_json

KINDS: tuple[Kind, ...] = ("base", "pro")
LIMIT_MB = {"base": 120.0, "pro": 320.0}
"""What a user fetches in all, the runtime's wheel counted in; 1 MB is 10⁶ bytes."""
FULL_PRECISION = ("F32", "F16", "BF16")
"""Twice Q8_0's size for nothing that can be measured: a pack holds one only where there is nothing else."""
APACHE = "apache-2.0"
Pro = Literal["quantised", "adapter"]
"""How a pro pack differs from its base: a larger file of the same student, or the same file and an adapter."""


@dataclass(frozen=True)
class Exported:
    """One GGUF of the run; `adapter`: what a pack switches on with it."""

    path: Path
    quantisation: str
    bytes: int
    adapter: Path | None = None


def pack(
    run: Run,
    out: Path,
    kinds: Sequence[Kind] = KINDS,
    *,
    version: str = "1",
    licence: Path | None = None,
    pro: Pro = "quantised",
) -> list[Path]:
    """Make packs of a run: two quantisations of one student, or one file without and with an adapter.

    Args:
        run: exported; what its scorecard holds goes into the model card.
        out: the folder to put them in; a pack of the same name is replaced.
        kinds: "base" takes the smallest file; "pro" as `pro` says.
        version: of the packs, part of their names.
        licence: the text to ship as LICENSE; needed where the teacher's is not Apache-2.0.
        pro: "quantised": the largest quantised file that keeps the limit; "adapter": the base's file, byte for byte,
            and the run's adapter.

    Returns: their folders. A pack over its limit is made all the same; that is said, and stands in its manifest.
    Raises: Problem where the run has too few files or no adapter, the licence's text is not known, or the scorecard
    is of an earlier student.
    """
    require_one_student(run)
    chosen = choose(exported(run), kinds, runtime().wheel_bytes, pro)
    out.mkdir(parents=True, exist_ok=True)
    folders = []
    for kind, file in chosen.items():
        folders.append(_build(run, out, kind, file, version, licence))
        size = read_manifest(folders[-1]).size
        total = size.total_bytes / 1e6
        verdict = "within" if size.within else "OVER"
        run.progress.say(
            f"{folders[-1].name}: {size.files_bytes / 1e6:.1f} MB, with the runtime's wheel {total:.1f} MB, "
            f"{verdict} its limit of {size.limit_mb:.0f} MB"
        )
    return folders


def exported(run: Run) -> list[Exported]:
    """The run's GGUFs that need no adapter, smallest first. Raises: Problem where there is none."""
    folder = run.stage("export")
    found = []
    for entry in read_json(folder / "report.json")["files"]:
        path = folder / str(entry["name"])
        if not path.is_file():
            raise Problem(f"{path} is missing", run.command("export"))
        if adapter_beside(path) is None:  # whoever opens a pack's file elsewhere has that file alone
            found.append(Exported(path, str(entry.get("mix", entry["type"])), path.stat().st_size))
    if not found:
        raise Problem("every exported file needs its symbol guard beside it", 'Add a type without "-guard" and export.')
    return sorted(found, key=lambda one: one.bytes)


def _ship(run: Run) -> str:
    """What the scorecard calls "student": a type or a mix; what a chosen one holds stands in the report."""
    entries = read_json(run.stage("export") / "report.json")["files"]
    asked = run.recipe.export.ship
    return next((str(entry["mix"]) for entry in entries if entry["type"] == asked and "mix" in entry), asked)


def choose(
    found: Sequence[Exported], kinds: Sequence[Kind], wheel_bytes: int, pro: Pro = "quantised"
) -> dict[Kind, Exported]:
    """Which file each kind of pack holds. Raises: Problem where "pro" would hold the same as "base"."""
    base, *larger = found
    chosen: dict[Kind, Exported] = {}
    for kind in dict.fromkeys(kinds):
        if kind == "base":
            chosen[kind] = base
            continue
        if pro == "adapter":
            chosen[kind] = _with_adapter(base)
            continue
        if not larger:
            raise Problem(
                f"the run has exported {base.quantisation} alone, and a pro pack is a larger file of the same student",
                'Add a type to the recipe, such as export.types = ["Q8_0", "Q4_0"], and export again.',
            )
        quantised = [one for one in larger if one.quantisation not in FULL_PRECISION] or larger
        fitting = [one for one in quantised if one.bytes + wheel_bytes <= LIMIT_MB[kind] * 1e6]
        chosen[kind] = fitting[-1] if fitting else quantised[0]
    return chosen


def _with_adapter(base: Exported) -> Exported:
    adapters = named_adapters(base.path)
    if not adapters:
        raise Problem(
            f"{base.path.name} has no adapter beside it",
            'Set distill.adapter.category, such as "code", and run again; or take a larger file: --pro quantised.',
        )
    return replace(base, adapter=next(iter(adapters.values())))


def _build(run: Run, out: Path, kind: Kind, file: Exported, version: str, licence: Path | None) -> Path:
    metadata = read_metadata(file.path)
    teacher = PackTeacher(
        name=str(metadata.get("potstill.teacher", "unknown")),
        licence=str(metadata.get("general.license", "unknown")),
        sha256=str(metadata.get("potstill.teacher_sha256", "")),
    )
    name = re.sub(r"\s+", "-", run.recipe.name.strip(" ."))
    folder = _folder_name(name, kind, version)
    text = _licence_text(teacher, licence)
    model = f"{name}-{file.quantisation}.gguf"
    partial = out / f"{folder}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    require_space(out, file.bytes, "The pack", "give another --out")
    shutil.copyfile(file.path, partial / model)
    adapter = None
    if file.adapter is not None:
        adapter = adapter_path(Path(model), adapter_name(file.adapter.name)).name
        shutil.copyfile(file.adapter, partial / adapter)
    size = sum(path.stat().st_size for path in partial.iterdir())
    shipped = Shipped(name, kind, version, model, file.quantisation, size, _ship(run), teacher, adapter)
    texts = {
        "MODEL_CARD.md": model_card(shipped, read_material(run)),
        "RUN.md": run_guide(shipped, run.recipe.answers, run.recipe.evaluate.context, runtime()),
        "Modelfile": modelfile(model, metadata, run.recipe.answers, run.recipe.evaluate.context, adapter),
        "LICENSE": text,
    }
    for one, content in texts.items():
        (partial / one).write_text(content, encoding="utf-8")
    write_manifest(partial, _manifest(run, partial, shipped))
    final = out / folder
    if final.exists():
        shutil.rmtree(final)
    partial.replace(final)
    return final


def _manifest(run: Run, folder: Path, shipped: Shipped) -> Manifest:
    listed = tuple(
        PackFile(name=path.name, bytes=path.stat().st_size, sha256=sha256_of(path)) for path in sorted(folder.iterdir())
    )
    in_files, needed = sum(file.bytes for file in listed), runtime()
    total, limit = in_files + needed.wheel_bytes, LIMIT_MB[shipped.kind]
    return Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        name=shipped.name,
        kind=shipped.kind,
        version=shipped.version,
        model=shipped.model,
        adapter=shipped.adapter,
        quantisation=shipped.quantisation,
        files=listed,
        teacher=shipped.teacher,
        fingerprint=run.fingerprint("export") or "",
        made=_made(run),
        runtime=needed,
        size=PackSize(files_bytes=in_files, total_bytes=total, limit_mb=limit, within=total <= limit * 1e6),
    )


def _folder_name(name: str, kind: Kind, version: str) -> str:
    try:
        return "-".join((plain_name(name), kind, plain_name(version)))
    except ValueError as error:
        raise Problem(f"{error}, and so can't name a pack", "Use letters, digits, dots and dashes.") from None


def _made(run: Run) -> dict[str, Any]:
    """How to make it again. Folders of this machine are left out."""
    stages = run.manifest()
    export = stages.get("export", {})
    return {
        "recipe": without_folders(run.recipe.model_dump(mode="json")),
        "stages": {name: _line(entry) for name, entry in stages.items()},
        "versions": export.get("versions", {}),
        "machine": export.get("machine", ""),
    }


def _line(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("fingerprint", "finished", "seconds") if name in entry}


def _licence_text(teacher: PackTeacher, licence: Path | None) -> str:
    if licence is not None:
        try:
            return licence.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Problem(f"{licence} can't be read ({error})", "Give the licence as a text file.") from None
    if teacher.licence.casefold() != APACHE:
        raise Problem(
            f"the teacher {teacher.name} is licensed as {teacher.licence!r}, whose text potstill does not have",
            "Give it: --licence FILE.",
        )
    return resources("potstill.pack").joinpath("templates", "Apache-2.0.txt").read_text(encoding="utf-8")
