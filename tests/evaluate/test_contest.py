"""Who is measured: files by their names, and a clear word about what is no model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from potstill.evaluate.contest import find_contest
from potstill.problem import Problem
from potstill.recipe import Recipe
from potstill.run import Run, write_json


@pytest.fixture
def exported(tmp_path: Path, tiny_ggufs: dict[str, Path], tiny_checkpoint: Path) -> Path:
    """A run folder of which only the exported files are there."""
    folder = tmp_path / "run" / "export"
    folder.mkdir(parents=True)
    for kind, path in tiny_ggufs.items():
        shutil.copyfile(path, folder / f"x-{kind}.gguf")
    files = [{"type": kind, "name": f"x-{kind}.gguf"} for kind in tiny_ggufs]
    write_json(folder / "report.json", {"files": files})
    return folder.parent


def contest_of(folder: Path, teacher: Path, *against: str) -> Any:
    described = {
        "name": "x",
        "teacher": {"model": str(teacher)},
        "export": {"types": ["F16", "Q8_0"], "ship": "Q8_0"},
        "evaluate": {"against": list(against)},
    }
    return find_contest(Run(folder, Recipe.model_validate(described), folder.parent / "home"))


def test_teacher_student_and_its_other_files(exported: Path, tiny_checkpoint: Path) -> None:
    found = contest_of(exported, tiny_checkpoint)

    assert list(found.models) == ["teacher", "student"]
    assert found.models["student"].name == "x-Q8_0.gguf"
    assert {name: path.name for name, path in found.variants.items()} == {"student-F16": "x-F16.gguf"}


def test_a_student_with_an_adapter_is_another_variant(exported: Path, tiny_checkpoint: Path) -> None:
    for kind in ("F16", "Q8_0"):
        (exported / "export" / f"x-{kind}.code.adapter.gguf").write_bytes(b"an adapter")

    found = contest_of(exported, tiny_checkpoint)

    assert list(found.models) == ["teacher", "student"] and found.adapted == ("student-code",)
    assert {name: path.name for name, path in found.variants.items()} == {
        "student-F16": "x-F16.gguf", "student-code": "x-Q8_0.code.adapter.gguf",
    }  # fmt: skip


def test_others_are_called_as_their_files(exported: Path, tiny_checkpoint: Path, tiny_gguf: Path) -> None:
    clash = exported / "student.gguf"
    shutil.copyfile(tiny_gguf, clash)

    found = contest_of(exported, tiny_checkpoint, str(tiny_gguf), str(clash))

    assert list(found.models) == ["teacher", "student", tiny_gguf.stem, "student-3"]
    assert found.models["student-3"] == clash


@pytest.mark.parametrize("named", ["smolm2-135m-instruct", "none.gguf"])
def test_what_is_no_model_is_told(exported: Path, tiny_checkpoint: Path, named: str) -> None:
    with pytest.raises(Problem, match=f"{named}: neither a GGUF") as told:
        contest_of(exported, tiny_checkpoint, named)
    assert "smollm2-135m-instruct" in told.value.remedy


def test_a_file_that_is_no_gguf_is_told(exported: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    noise = tmp_path / "noise.gguf"
    noise.write_bytes(b"not a model")
    with pytest.raises(Problem, match=r"noise\.gguf"):
        contest_of(exported, tiny_checkpoint, str(noise))
