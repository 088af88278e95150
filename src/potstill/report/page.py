"""The page as a whole: what stands in each section, and the HTML.

In:  `Material`.
Out: one HTML text that needs nothing from outside and runs no script but its own.
Does not know: where the material lies, how it was made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from potstill.models.catalogue import entry_named
from potstill.report import curves, repeats, scatter, scorecard, stages
from potstill.report.glance import glance
from potstill.report.html import render_page
from potstill.report.material import Json, Material
from potstill.report.metrics import Metric, metric_named
from potstill.report.names import mark_of, model_named
from potstill.report.reading import failure_kinds, samples
from potstill.report.scorecard import Comparison
from potstill.report.stages import Bar
from potstill.report.verdict import ruling
from potstill.report.words import (
    DASH,
    NOT_MEASURED,
    Words,
    interval,
    megabytes,
    millions,
    quantity,
    rounded,
    same,
    without_folders,
)

HEADLINES = ("speed.first_token_ms", "speed.decode_tok_s", "size.file_mb", "memory.peak_mb")
LADDER = ("cut", "healed", "trained", "student")
STEPS = {
    "cut": Words("Cut", "剪枝后"),
    "healed": Words("Healed", "修复后"),
    "trained": Words("Trained", "训练后"),
    "student": Words("Shipped", "交付文件"),
}
"""The student's own stages: where a metric knows several, they are drawn as a ladder."""
STEEPEST = "fidelity.kl"


@dataclass(frozen=True)
class Lineage:
    """Who was made from whom."""

    teacher: str
    teacher_parameters: Words
    licence: Words
    student_parameters: Words
    shape: Words
    shipped: Words
    recipe: str
    finished: str


@dataclass(frozen=True)
class Headline:
    """One large number: the student against the teacher on one metric."""

    metric: Metric
    comparison: Comparison
    student: Words
    teacher: Words


@dataclass(frozen=True)
class Ladder:
    """One metric over the student's own stages; `changes` says what healing and training did to it."""

    metric: Metric
    bars: tuple[Bar, ...]
    changes: tuple[Words, ...]


@dataclass(frozen=True)
class ShippedFile:
    """One exported GGUF."""

    name: str
    type: str
    size: Words
    difference: Words
    chosen: bool


@dataclass(frozen=True)
class Provenance:
    """What it takes to make the same again: (stage, fingerprint, finished), versions, machines, teacher, recipe."""

    stages: tuple[tuple[Words, str, str], ...]
    versions: tuple[tuple[str, str], ...]
    machines: tuple[str, ...]
    teacher_hash: str
    recipe: str


def render(material: Material) -> str:
    """The page. The same material always gives the same text."""
    asked = {"model_named": model_named, "mark_of": mark_of}
    return render_page("page.html", _sections(material), asked=asked)


def _sections(material: Material) -> dict[str, Any]:
    ladders = _ladders(material)
    return {
        "lineage": _lineage(material),
        "headlines": _headlines(material),
        "steepest": next((ladder for ladder in ladders if ladder.metric.key == STEEPEST), None),
        "ruling": ruling(material.gates),
        "glance": glance(material.scorecard),
        "plots": scatter.plots(material.scorecard, str(material.recipe["export"]["ship"])),
        "groups": scorecard.groups(material.scorecard),
        "ladders": ladders,
        "panels": curves.panels(material.steps),
        "samples": samples(material.samples),
        "lengths": repeats.length_chart(material.stability),
        "questions": repeats.questions(material.stability),
        "failures": failure_kinds(material.failures),
        "stories": stages.stage_stories(material),
        "time_bars": stages.time_bars(material),
        "total_time": stages.total_seconds(material),
        "byte_bars": stages.byte_bars(material),
        "total_bytes": stages.total_bytes(material),
        "files": _files(material),
        "provenance": _provenance(material),
    }


def _lineage(material: Material) -> Lineage:
    named = str(material.recipe["teacher"]["model"])
    entry = entry_named(named)
    unknown = Words("unknown: not in potstill's catalogue", "未知：不在 potstill 的目录中")
    pruned = material.reports.get("prune", {})
    spec = pruned.get("spec", {})
    parameters = pruned.get("parameters")
    shipped = next((file for file in _files(material) if file.chosen), None)
    finished = max((str(stage.get("finished", "")) for stage in material.stages.values()), default="")
    return Lineage(
        teacher=entry.title if entry else str(without_folders(named)),
        teacher_parameters=millions(entry.parameters) if entry else Words("size unknown", "大小未知"),
        licence=same(entry.licence) if entry else unknown,
        student_parameters=NOT_MEASURED if parameters is None else millions(parameters),
        shape=_shape(spec) if spec else Words("not cut yet", "尚未剪枝"),
        shipped=same(f"{shipped.type}, ") + shipped.size if shipped else Words("not exported yet", "尚未导出"),
        recipe=str(material.recipe["name"]),
        finished=_moment(finished),
    )


def _shape(spec: Json) -> Words:
    layers, ffn, hidden, kept = (_whole(spec.get(name)) for name in ("layers", "ffn", "hidden", "vocabulary"))
    return Words(
        f"{layers} layers × {ffn} neurons, width {hidden}, {kept} tokens",
        f"{layers} 层 × {ffn} 神经元，宽度 {hidden}，{kept} 词元",
    )


def _headlines(material: Material) -> list[Headline]:
    found = []
    for key in HEADLINES:
        metric = metric_named(key)
        known = scorecard.readings(material.scorecard, metric)
        comparison = scorecard.compare(metric, known.get("teacher"), known.get("student"))
        if comparison:
            values = (quantity(known[model].value, known[model].unit) for model in ("student", "teacher"))
            found.append(Headline(metric, comparison, *values))
    return found


def _ladders(material: Material) -> list[Ladder]:
    found = []
    # A ladder for every category and position would hide the few that matter.
    for key in (key for key in material.scorecard if key.count(".") < 2):
        metric = metric_named(key)
        known = scorecard.readings(material.scorecard, metric)
        steps = {model: known[model] for model in LADDER if model in known}
        if len(steps) > 1:
            found.append(_ladder(metric, steps))
    return found


def _ladder(metric: Metric, steps: dict[str, scorecard.Reading]) -> Ladder:
    places = {mark.model: mark for mark in scorecard.marks(metric, steps)}
    bars = []
    for model, reading in steps.items():
        mark, ends = places.get(model), interval(reading.low, reading.high, reading.unit)
        bars.append(
            Bar(
                STEPS[model],
                quantity(reading.value, reading.unit),
                ends or Words("no interval", "无区间"),
                mark.at if mark else 0.0,
                mark.low if mark and ends else None,
                mark.high if mark and ends else None,
                strong=model == "student",
            )
        )
    return Ladder(metric, tuple(bars), _changes(metric, steps))


def _changes(metric: Metric, steps: dict[str, scorecard.Reading]) -> tuple[Words, ...]:
    """What each step did, said so that a step backwards reads as one."""
    names = {
        "healed": Words("healing", "修复"),
        "trained": Words("training", "训练"),
        "student": Words("rounding", "量化"),
    }
    told, models = [], list(steps)
    for before, after in pairwise(models):
        old, new = steps[before].value, steps[after].value
        if old is None or new is None:
            continue
        change = new - old
        better = change < 0 if metric.better == "lower" else change > 0
        verdict = Words("unchanged", "不变") if not change else metric.gain if better else metric.loss
        amount = quantity(abs(change), steps[after].unit)
        told.append(names[after] + Words(": ", "：") + amount + Words(" ", "，") + verdict)
    return tuple(told)


def _files(material: Material) -> list[ShippedFile]:
    ship = material.recipe["export"]["ship"]
    return [
        ShippedFile(
            name=Path(str(file.get("name", DASH))).name,
            type=str(file.get("type", DASH)),
            size=NOT_MEASURED if file.get("megabytes") is None else megabytes(float(file["megabytes"])),
            difference=_logit_difference(file.get("largest_difference")),
            chosen=file.get("type") == ship,
        )
        for file in material.reports.get("export", {}).get("files", [])
    ]


def _logit_difference(value: float | None) -> Words:
    return NOT_MEASURED if value is None else same(rounded(float(value)))


def _provenance(material: Material) -> Provenance:
    entries = list(material.stages.items())
    return Provenance(
        stages=tuple(
            (stages.stage_name(name), str(entry.get("fingerprint", DASH)), _moment(str(entry.get("finished", ""))))
            for name, entry in entries
        ),
        versions=_versions([entry.get("versions") or {} for _, entry in entries]),
        machines=tuple(dict.fromkeys(str(entry["machine"]) for _, entry in entries if entry.get("machine"))),
        teacher_hash=str(material.reports.get("answers", {}).get("teacher_sha256") or DASH),
        recipe=json.dumps(without_folders(material.recipe), ensure_ascii=False, indent=2),
    )


def _versions(told: Sequence[Json]) -> tuple[tuple[str, str], ...]:
    """Library → its version; several where the stages ran with different ones."""
    names = dict.fromkeys(name for versions in told for name in versions)
    return tuple(
        (name, ", ".join(dict.fromkeys(str(versions[name]) for versions in told if name in versions))) for name in names
    )


def _moment(iso: str) -> str:
    """`2026-11-24 08:40 UTC` of an ISO time in UTC; anything else as it is."""
    return f"{iso[:10]} {iso[11:16]} UTC" if iso.endswith("+00:00") and len(iso) >= 22 else iso or DASH


def _whole(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else DASH
