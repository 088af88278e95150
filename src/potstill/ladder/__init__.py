"""A family of students in one go: the same recipe at several sizes, and what each size is worth.

In:  a recipe, sizes, training time for all together.
Out: a folder of ordinary runs, `ladder.json` and `ladder.html` beside them.
Does not know: what a stage computes, the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from potstill import pipeline
from potstill.family import copy_finished
from potstill.ladder.page import write_page
from potstill.ladder.plan import Rung, plan
from potstill.ladder.standing import Family, Member, read_member
from potstill.problem import Problem
from potstill.run import write_json

__all__ = ["Family", "Rung", "climb", "plan"]


def climb(rungs: Sequence[Rung], folder: Path) -> Family:
    """Make every run that is not made; what an earlier one has finished alike is copied.

    Page and JSON are written after every size, so that hours that end early leave something to look at. A size that
    fails is named and stops no other; interrupted, the same call goes on where it was.
    """
    members: list[Member] = []
    for place, rung in enumerate(rungs):
        rung.run.progress.say(f"[{rung.name}] {place + 1} of {len(rungs)}")
        members.append(_make(rung, [one.run.folder for one in rungs[:place]]))
        family = Family(tuple(members), folder / "ladder.html")
        write_json(folder / "ladder.json", family.to_json())
        write_page(family)
    return family


def _make(rung: Rung, earlier: Sequence[Path]) -> Member:
    try:
        with rung.run.alone():
            for other in earlier:
                copy_finished(other, rung.run)
        pipeline.run_all(rung.run)
        return read_member(rung)
    except (Problem, OSError, RuntimeError, MemoryError) as error:  # RuntimeError: torch's way to be out of memory
        rung.run.progress.say(f"{rung.name}: failed, {error}")
        return Member(rung.name, rung.run.folder, failure=str(error) or type(error).__name__)
