"""Everything the page is made from, as it lies in the run folder.

In:  a run, finished or not: what a stage has not left is empty here.
Out: `Material`.
Does not know: what any of it means, words, HTML.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from potstill.evaluate.gates import as_rows, judge
from potstill.evaluate.scorecard import read_measures
from potstill.machine import folder_bytes
from potstill.run import Run, read_json

STAGES = ("prompts", "answers", "vocab", "signals", "prune", "distill", "export", "evaluate")
"""In their order; the report itself isn't part of what it reports."""
REPORT = "report"

Json = dict[str, Any]


@dataclass(frozen=True)
class Material:
    """What was found.

    Args:
        recipe: with every default. stages: the manifest's entries, in the stages' order. reports: stage → its
        report.json. scorecard: metric → model → reading. samples: held-out answers. stability: model → questions with
        repeated answers. failures: what the student got wrong. gates: what the recipe demands, judged. steps: the
        training log. bytes: stage folder → size of what lies in it.
    """

    recipe: Json
    stages: dict[str, Json] = field(default_factory=dict)
    reports: dict[str, Json] = field(default_factory=dict)
    scorecard: dict[str, Json] = field(default_factory=dict)
    samples: list[Json] = field(default_factory=list)
    stability: dict[str, list[Json]] = field(default_factory=dict)
    failures: list[Json] = field(default_factory=list)
    gates: list[Json] = field(default_factory=list)
    steps: list[Json] = field(default_factory=list)
    bytes: dict[str, int] = field(default_factory=dict)


def read_material(run: Run) -> Material:
    """Read a run folder. Raises: Problem where a file is there but damaged."""
    manifest = run.manifest()
    folders = sorted(path.name for path in run.folder.iterdir() if path.is_dir()) if run.folder.is_dir() else []
    finished = [name for name in folders if not name.startswith(".") and not name.endswith(".partial")]
    evaluated = run.folder / "evaluate"
    return Material(
        recipe=run.recipe.model_dump(mode="json"),
        stages={name: manifest[name] for name in _in_order(list(manifest))},
        reports={name: _optional(run.folder / name / "report.json", {}) for name in _in_order(finished)},
        scorecard=_optional(evaluated / "scorecard.json", {}),
        samples=_optional(evaluated / "samples.json", []),
        stability=_optional(evaluated / "stability.json", {}),
        failures=_optional(evaluated / "failures.json", []),
        gates=_gates(run),
        steps=_read_lines(run.folder / "distill" / "log.jsonl"),
        bytes={name: folder_bytes(run.folder / name) for name in _in_order(finished)},
    )


def _gates(run: Run) -> list[Json]:
    """The scorecard judged by the gates that the recipe has now: they may have changed since it was measured."""
    scorecard = run.folder / "evaluate" / "scorecard.json"
    return as_rows(judge(run.recipe.gates, read_measures(scorecard))) if scorecard.exists() else []


def _in_order(names: list[str]) -> list[str]:
    known = [name for name in STAGES if name in names]
    return known + [name for name in names if name not in STAGES and name != REPORT]


def _optional(path: Path, absent: Any) -> Any:
    return read_json(path) if path.exists() else absent


def _read_lines(path: Path) -> list[Json]:
    """Lines of a log; a line torn by a kill is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines
