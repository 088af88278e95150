"""What a run takes over from another one."""

from __future__ import annotations

from pathlib import Path

from potstill import pipeline
from potstill.family import copy_finished
from potstill.recipe import PruneSection, Recipe, TeacherSection
from potstill.run import Run


def made(run: Run, *names: str) -> Run:
    wanted = pipeline.fingerprints(run)
    for name in names:
        with run.building(name, wanted[name]) as folder:
            (folder / "made").write_text(f"{name} of {run.folder.name}")
    return run


def test_what_is_wanted_alike_is_copied_and_nothing_else(tiny_checkpoint: Path, tmp_path: Path) -> None:
    recipe = Recipe(name="x", teacher=TeacherSection(model=str(tiny_checkpoint)))
    first = made(Run(tmp_path / "first", recipe, tmp_path), "prompts", "answers", "vocab", "signals", "prune")
    smaller = recipe.model_copy(update={"prune": PruneSection(layers=2)})
    second = made(Run(tmp_path / "second", smaller, tmp_path), "prompts")
    copy_finished(first.folder, second)
    states = {one.name: one.state for one in pipeline.states(second)}
    assert [name for name, state in states.items() if state == "done"] == ["prompts", "answers", "vocab", "signals"]
    assert (second.folder / "prompts" / "made").read_text() == "prompts of second"
    assert (second.folder / "signals" / "made").read_text() == "signals of first"
    assert not list(second.folder.glob("*.copy"))
    half = Run(tmp_path / "half", smaller, tmp_path)
    (first.folder / "signals" / "made").unlink()
    (first.folder / "signals").rmdir()  # to free the disk
    copy_finished(first.folder, half)
    assert list(half.manifest()) == ["prompts", "answers", "vocab"]
    quarter = Run(tmp_path / "quarter", smaller, tmp_path)
    copy_finished(first.folder, quarter, until="answers")
    assert list(quarter.manifest()) == ["prompts", "answers"]
    before = second.manifest()
    copy_finished(first.folder, second)
    assert second.manifest() == before
