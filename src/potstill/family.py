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


def copy_finished(other: Path, run: Run, until: str | None = None) -> None:
    """Copy every stage, or those as far as `until`, that `other` has finished and `run` wants alike: same fingerprint.

    Folders first, so that the manifest never promises more than there is. The caller holds `run` (`Run.alone`).
    """
    run.keep_recipe()  # first, so that a kill leaves what is known for a run's
    finished = Run(other, run.recipe, run.home)
    here, there = run.manifest(), finished.manifest()
    for name in pipeline.names_until(until):
        wanted = pipeline.fingerprints(run)[name]  # anew for each, for it hangs on what was copied before
        if finished.fingerprint(name) != wanted or run.fingerprint(name) == wanted:
            continue
        final, partial = run.folder / name, run.folder / f"{name}.copy"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(other / name, partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)
        here[name] = there[name]
        write_json(run.folder / "manifest.json", {"recipe": run.recipe.name, "stages": here})
