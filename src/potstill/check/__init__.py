"""What a recipe will cost on this machine, before anything is done.

In:  a recipe, a probed machine.
Out: predicted tokens, disk, memory and minutes, as a table or in two lines; or a Problem where it cannot fit.
Does not know: how stages work beyond what each costs a token.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from potstill.check.cost import (
    Job,
    memory_megabytes,
    pass_minutes,
    predict_minutes,
    reading_minutes,
    run_megabytes,
    take_stock,
)
from potstill.check.material import count_material
from potstill.evaluate.contest import require_other
from potstill.machine import (
    Machine,
    available_memory_mb,
    disk_free_mb,
    fastest_dtype,
    folder_bytes,
    training_dtype,
)
from potstill.models.teacher import require_teacher
from potstill.pack.device import refuse_processor
from potstill.problem import Problem
from potstill.recipe import Recipe
from potstill.report.metrics import METRICS, is_known

SPARE = 1.25
"""Text that is advised, as a multiple of what training is predicted to read."""
WORTH_SAYING = 2.0
"""Minutes; a shorter run is sooner done than announced."""


def predict(recipe: Recipe, machine: Machine, home: Path) -> list[list[str]]:
    """Rows of what, how much, of which.

    Args:
        home: where teachers lie whose configurations tell more than a guess.

    Raises: Problem where the student's shape is impossible.
    """
    job = take_stock(recipe, home)
    material, sizes, minutes = job.material, job.sizes, predict_minutes(job, machine)
    return [
        ["prompts", f"{material.prompts:,}", "train and held-out together"],
        [
            "tokens read",
            f"{material.prompts * material.exchange:,.0f}",
            f"about {material.answer:.0f} answer tokens each",
        ],
        ["passes in training", *_passes(job, machine)],
        [
            "teacher",
            f"{sizes.teacher / 1e6:.1f}M parameters",
            recipe.teacher.model if sizes.known else f"{recipe.teacher.model} has not been read yet: a guess",
        ],
        [
            "student",
            f"{sizes.student / 1e6:.1f}M parameters",
            sizes.shape or "of a model that has not been read yet: a guess",
        ],
        ["disk, run folder", f"{run_megabytes(job) / 1e3:.1f} GB", f"{machine.disk_free_mb / 1e3:.0f} GB free"],
        ["memory", *_memory(job, machine)],
        ["minutes", f"{sum(minutes.values()):.0f}", _each(minutes)],
        [
            "this machine",
            f"{machine.cores} cores",
            f"float32 {machine.float32_gflops:.0f}, bfloat16 {machine.bfloat16_gflops:.0f} GFLOP/s, "
            f"copy {machine.bandwidth_gb_s:.0f} GB/s",
        ],
    ]


def announce(recipe: Recipe, machine: Machine, home: Path, missing: Mapping[str, str]) -> Iterator[str]:
    """Lines for whoever starts a run: how long it will take, and how it could take less.

    Args:
        missing: stages that are still to be done → their state; of a "partial" one some of the time is spent.
    """
    job = take_stock(recipe, home)
    minutes = {name: value for name, value in predict_minutes(job, machine).items() if name in missing}
    if sum(minutes.values()) < WORTH_SAYING:
        return
    about = "at most" if "partial" in missing.values() else "about"
    yield f"{about} {sum(minutes.values()):.0f} minutes on this machine: {_each(minutes)}"
    saving = _saving(job, machine) if {"prompts", "signals"} <= missing.keys() else None
    if saving:
        yield f"training will not get to all of this text: {saving}"


def _each(minutes: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in minutes.items())


def _memory(job: Job, machine: Machine) -> tuple[str, str]:
    peaks = memory_megabytes(job, training_dtype(machine))
    stage = max(peaks, key=peaks.__getitem__)
    return f"{peaks[stage] / 1e3:.1f} GB", f"in {stage}; {machine.memory_mb / 1e3:.1f} GB available"


def _passes(job: Job, machine: Machine) -> tuple[str, str]:
    """How often training reads its text, and what that means."""
    budget = job.recipe.distill.budget_minutes
    if budget is None or not job.material.training:
        return f"{job.recipe.distill.epochs:g}", "distill.epochs"
    return f"{budget / pass_minutes(job, machine):.2f}", _saving(job, machine) or "over its text"


def _saving(job: Job, machine: Machine) -> str | None:
    """What to write into the recipe where the teacher would read far more than a slow machine trains on."""
    budget, training = job.recipe.distill.budget_minutes, job.material.training
    if budget is None or not training:
        return None
    trained = training * budget / pass_minutes(job, machine) * SPARE
    healed = job.recipe.prune.calibration_tokens / job.material.exchange
    enough = math.ceil(max(trained, healed) / 10) * 10
    # What stays is not as long as the mean of all.
    prompts = job.recipe.prompts.model_copy(update={"limit": enough})
    less = replace(job, material=count_material(job.recipe.model_copy(update={"prompts": prompts})))
    saved = reading_minutes(job, job.material.prompts, machine) - reading_minutes(less, less.material.prompts, machine)
    return f"prompts.limit = {enough} would do and save {saved:.0f} minutes" if saved > budget / 2 else None


def refuse(recipe: Recipe, folder: Path, home: Path, done: Collection[str] = ()) -> None:
    """Raises: Problem where a file, a model or a gate's metric is not there, or disk or memory is short of the need.

    Args:
        done: stages whose folders stay as they are; what was begun is there too, what is stale takes room of its own.
    """
    for path in _named(recipe, done):
        if not path.exists():
            raise Problem(f"{path}: named in the recipe, but not there", "Mend the path, or take it out.")
    for model in filter(None, (recipe.teacher.model, recipe.prune.base)):
        require_teacher(model)
    for other in recipe.evaluate.against:
        require_other(other)
    _refuse_unknown_metrics(recipe)
    refuse_processor()
    job = take_stock(recipe, home)
    place = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    store = next(parent for parent in (home, *home.resolve().parents) if parent.exists())
    have = any((home / "teachers").glob("*/checkpoint"))
    for where, needed, remedy in (
        (place, run_megabytes(job) - _megabytes_there(folder, done), "Free some, or give another --run."),
        (store, 0.0 if have else 2500.0, "Free some, or set POTSTILL_HOME to another disk."),
    ):
        if disk_free_mb(where) < needed:
            raise Problem(f"{where}: {disk_free_mb(where) / 1e3:.1f} GB free, {needed / 1e3:.1f} GB needed", remedy)
    peaks = memory_megabytes(job, fastest_dtype())
    _refuse_memory({stage: peak for stage, peak in peaks.items() if stage not in done})


def _refuse_unknown_metrics(recipe: Recipe) -> None:
    """A gate on what nobody measures would be found undecided when all is done."""
    for gate in recipe.gates:
        if not is_known(gate):
            known = [metric.key for metric in METRICS]
            near = get_close_matches(gate, known, 1)
            remedy = f"The nearest is {near[0]!r}." if near else f"They are {', '.join(known)}."
            raise Problem(f"[gates] asks for {gate!r}, which no scorecard has", remedy)


def _named(recipe: Recipe, done: Collection[str]) -> Iterator[Path]:
    """Files that the stages which are not done will read."""
    sets = [file.path for file in recipe.evaluate.files]  # no prompt may overlap with them
    readers = {
        "prompts": [*(file.path for file in recipe.prompts.files), *sets],
        "vocab": recipe.vocab.texts,
        "prune": recipe.prune.texts,
        "export": filter(None, [recipe.export.guard_tokens]),
        "evaluate": sets,
    }
    for stage, paths in readers.items():
        yield from paths if stage not in done else ()


def _refuse_memory(peaks: Mapping[str, float]) -> None:
    free, stage = available_memory_mb(), max(peaks, key=peaks.__getitem__, default=None)
    if stage is not None and free < peaks[stage]:
        smaller = {"prune": "prune.calibration_tokens", "distill": "distill.batch_tokens or prune.parameters"}
        raise Problem(
            f"{free / 1e3:.1f} GB of memory available, {peaks[stage] / 1e3:.1f} GB needed by the stage `{stage}`",
            f"Lower {smaller[stage]}, or close other programs." if stage in smaller else "Close other programs.",
        )


def _megabytes_there(folder: Path, done: Collection[str]) -> float:
    parts = [*folder.glob("*.partial"), *folder.glob(".*.aside"), *(folder / name for name in done)]
    return sum(map(folder_bytes, parts)) / 1e6
