"""Runs that begin alike: what one has finished, another need not do again.

In:  a finished (or half-finished) run folder, a `Run` that wants some of the same.
Out: copies of finished stages.
Does not know: what the runs are made for, what a stage computes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from potstill import pipeline
from potstill.run import Run, next_turn, write_json


def copy_finished(other: Path, run: Run, until: str | None = None) -> None:
    """Copy every stage, or those as far as `until`, that `other` has finished and `run` wants alike: same fingerprint.

    Folders first, so that the manifest never promises more than there is. The caller holds `run` (`Run.alone`).
    """
    finished = Run(other, run.recipe, run.home)
    here, there, wanted = run.manifest(), finished.manifest(), pipeline.fingerprints(run)
    for name in pipeline.names_until(until):
        if finished.fingerprint(name) != wanted[name] or run.fingerprint(name) == wanted[name]:
            continue
        final, partial = run.folder / name, run.folder / f"{name}.copy"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(other / name, partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)
        here[name] = {**there[name], "turn": next_turn(here)}
        write_json(run.folder / "manifest.json", {"recipe": run.recipe.name, "stages": here})
