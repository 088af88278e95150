"""Runs that begin alike: what one has finished, another need not do again.

In:  a finished (or half-finished) run folder, a `Run` that wants some of the same.
Out: copies of finished stages.
Does not know: what the runs are made for, what a stage computes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from potstill import pipeline
from potstill.run import Run, write_json


def copy_finished(other: Path, run: Run) -> None:
    """Copy every stage that `other` has finished and `run` wants alike: with the same fingerprint.

    Folders first, so that the manifest never promises more than there is. The caller holds `run` (`Run.alone`).
    """
    there = Run(other, run.recipe, run.home).manifest()
    here, wanted = run.manifest(), pipeline.fingerprints(run)
    for name, entry in there.items():
        if entry["fingerprint"] != wanted.get(name) or run.fingerprint(name) == wanted[name]:
            continue
        final, partial = run.folder / name, run.folder / f"{name}.copy"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(other / name, partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)
        here[name] = entry
        write_json(run.folder / "manifest.json", {"recipe": run.recipe.name, "stages": here})
