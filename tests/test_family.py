"""What a run takes over from another one."""

from __future__ import annotations

import shutil
from pathlib import Path

from potstill import pipeline
from potstill.family import copy_finished
from potstill.recipe import PruneSection, Recipe, TeacherSection
from potstill.run import Run


def made(run: Run, *names: str, said: str = "as ever") -> Run:
    for name in names:
        with run.building(name, pipeline.fingerprints(run)[name], pipeline.stage_named(name).reads) as folder:
            (folder / "made").write_text(said)
            (folder / "report.json").write_text(run.folder.name)
    return run


def test_what_is_wanted_alike_is_copied_and_nothing_else(tiny_checkpoint: Path, tmp_path: Path) -> None:
    recipe = Recipe(name="x", teacher=TeacherSection(model=str(tiny_checkpoint)))
    first = made(Run(tmp_path / "first", recipe, tmp_path), "prompts", "answers", "vocab", "signals", "prune")
    smaller = recipe.model_copy(update={"prune": PruneSection(layers=2)})
    second = made(Run(tmp_path / "second", smaller, tmp_path), "prompts")
    copy_finished(first.folder, second)
    states = {one.name: one.state for one in pipeline.states(second)}
    assert [name for name, state in states.items() if state == "done"] == ["prompts", "answers", "vocab", "signals"]
    assert (second.folder / "prompts" / "report.json").read_text() == "second"
    assert (second.folder / "signals" / "report.json").read_text() == "first"
    assert not list(second.folder.glob("*.copy"))
    half = Run(tmp_path / "half", smaller, tmp_path)
    shutil.rmtree(first.folder / "signals")  # to free the disk
    copy_finished(first.folder, half)
    assert list(half.manifest()) == ["prompts", "answers", "vocab"]
    quarter = Run(tmp_path / "quarter", smaller, tmp_path)
    copy_finished(first.folder, quarter, until="answers")
    assert list(quarter.manifest()) == ["prompts", "answers"]
    before = second.manifest()
    copy_finished(first.folder, second)
    assert second.manifest() == before


def test_nothing_is_copied_that_was_made_from_something_else(tiny_checkpoint: Path, tmp_path: Path) -> None:
    recipe = Recipe(name="x", teacher=TeacherSection(model=str(tiny_checkpoint)))
    first = made(Run(tmp_path / "first", recipe, tmp_path), "prompts", "answers", "vocab")
    other = made(Run(tmp_path / "other", recipe, tmp_path), "prompts", "answers", said="otherwise")
    copy_finished(first.folder, other)
    assert list(other.manifest()) == ["prompts", "answers"]
