"""What the sizes of a ladder reached, side by side.

In:  finished runs.
Out: `Family`: a table, JSON, one scorecard with a column a size.
Does not know: how runs are made, terminals, HTML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from potstill.evaluate.scorecard import STUDENT, TEACHER, Measure, read_measures
from potstill.ladder.plan import Rung
from potstill.report.words import DASH, Table, plain, with_ends
from potstill.run import read_json

METRICS = (
    "fidelity.kl", "fidelity.top1", "code.runs", "code.passes", "commonsense.error",
    "size.file_mb", "speed.decode_tok_s", "speed.first_token_ms", "memory.peak_mb",
)  # fmt: skip

Row = Mapping[str, Measure]


@dataclass(frozen=True)
class Member:
    """One size.

    Args:
        failure: why there is nothing more; empty where it is done. shape: layers × neurons. minutes: trained.
        measures: metric → "teacher" and "student", as this size's evaluation measured them in turn.
    """

    name: str
    folder: Path
    failure: str = ""
    shape: str = ""
    parameters: int = 0
    minutes: float = 0.0
    measures: Mapping[str, Row] = field(default_factory=dict)

    def value(self, metric: str, model: str = STUDENT) -> float | None:
        """A number, where it was measured."""
        measure = self.measures.get(metric, {}).get(model)
        return None if measure is None else measure.value

    def times_teacher(self, metric: str) -> float | None:
        """Student over teacher, both timed in the same evaluation."""
        student, teacher = self.value(metric), self.value(metric, TEACHER)
        return student / teacher if student is not None and teacher else None

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        measures = {
            metric: {model: asdict(row[model]) for model in (TEACHER, STUDENT) if model in row}
            for metric, row in self.measures.items()
        }
        return {**asdict(self), "folder": str(self.folder), "measures": measures}


def read_member(rung: Rung) -> Member:
    """The size of a finished run. Raises: Problem where something of it is missing."""
    run = rung.run
    cut, card = read_json(run.stage("prune") / "report.json"), read_measures(run.stage("evaluate") / "scorecard.json")
    return Member(
        rung.name,
        run.folder,
        shape=f"{cut['spec']['layers']} × {cut['spec']['ffn']}",
        parameters=cut["parameters"],
        minutes=run.manifest()["distill"]["seconds"] / 60,
        measures={metric: card[metric] for metric in METRICS if metric in card},
    )


@dataclass(frozen=True)
class Family:
    """All sizes so far, in the order they were asked for; `page` is where they are drawn."""

    members: tuple[Member, ...]
    page: Path

    @property
    def done(self) -> list[Member]:
        """Those that have been measured."""
        return [one for one in self.members if not one.failure]

    def failures(self) -> list[str]:
        """A line for each that failed."""
        return [f"{one.name} failed: {one.failure}" for one in self.members if one.failure]

    def scorecard(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Metric → size → measure. The teacher is in it as the first size's evaluation measured it."""
        card: dict[str, dict[str, dict[str, Any]]] = {}
        for place, member in enumerate(self.done):
            for metric, row in member.measures.items():
                column = card.setdefault(metric, {})
                if place == 0 and TEACHER in row:
                    column[TEACHER] = asdict(row[TEACHER])
                if STUDENT in row:
                    column[member.name] = asdict(row[STUDENT])
        return card

    def table(self) -> Table:
        """Title, columns, a row a size."""
        columns = ["size", "layers × ffn", "MB", "tokens/s", "× teacher", "first token, ms"]
        columns += ["KL, nats [95 %]", "top-1, % [95 %]", "answers", "code runs, %", "trained, min"]
        return "Quality against size and speed", columns, [_row(one) for one in self.members]

    def to_json(self) -> dict[str, Any]:
        """Everything, by size."""
        return {"page": str(self.page), "sizes": [one.to_json() for one in self.members]}


def _row(member: Member) -> list[str]:
    if member.failure:
        return [member.name, "failed", *[""] * 9]
    held_out = member.measures.get("fidelity.kl", {}).get(STUDENT)
    return [
        member.name,
        member.shape,
        _number(member.value("size.file_mb")),
        _number(member.value("speed.decode_tok_s")),
        _number(member.times_teacher("speed.decode_tok_s")),
        _number(member.value("speed.first_token_ms")),
        _interval(held_out, 1.0),
        _interval(member.measures.get("fidelity.top1", {}).get(STUDENT), 100.0),
        str(held_out.n) if held_out else "–",
        _number(member.value("code.runs"), 100.0),
        f"{member.minutes:.1f}",
    ]


def _number(value: float | None, scale: float = 1.0) -> str:
    return DASH if value is None else plain(scale * value)


def _interval(measure: Measure | None, scale: float) -> str:
    if measure is None or measure.value is None:
        return DASH
    return with_ends(measure.value, measure.low, measure.high, scale=scale)
