"""Stage `report`: one self-contained page about a finished run.

In:  the manifest, every stage's report, the training log, the scorecard, held-out answers.
Out: `report/report.html`.
Does not know: how anything was computed; networks.
"""

from __future__ import annotations

from pathlib import Path

from potstill.run import Run, write_text

__all__ = ["report"]


def report(run: Run, folder: Path) -> None:
    """Write the page. What a stage has not left is missing from it; the rest is shown."""
    from potstill.report.material import read_material
    from potstill.report.page import render

    write_text(folder / "report.html", render(read_material(run)))
    run.progress.say(f"report: {run.folder / 'report' / 'report.html'}")
