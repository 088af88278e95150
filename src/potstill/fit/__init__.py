"""The shape that fits a device: real files of candidate shapes timed here, those that fit healed and compared.

In:  a run (its recipe may be all there is), the limits of the device, which is this machine.
Out: a `Finding`: every candidate with what it reached, the best three of those that meet the limits.
Does not know: training, other machines, the terminal.
"""

from __future__ import annotations

from dataclasses import dataclass

from potstill import pipeline
from potstill.evaluate.speed import choose_questions
from potstill.fit.candidates import Candidate, span
from potstill.fit.finding import Finding, Fitted
from potstill.fit.limits import Limits
from potstill.fit.material import find_material, type_of
from potstill.fit.measuring import Clock, RandomFiles, Timed
from potstill.fit.quality import Healer, Quality
from potstill.notebook import Notebook
from potstill.problem import Problem
from potstill.prompts import golden, read_prompts
from potstill.run import Run, open_run
from potstill.signals.store import SignalStore

__all__ = ["Finding", "Limits", "Wishes", "fit"]

NEEDED = ("prompts", "answers", "vocab", "signals")
"""Stages that healing reads. They are made as ever, so that `potstill run` goes on from them."""


@dataclass(frozen=True)
class Wishes:
    """How it is to be done.

    Args:
        kind: number format of the files; None: what the recipe ships. most: candidates.
        heal: False stops after speed. heal_tokens, answers: see `Healer`.
    """

    kind: str | None
    most: int
    heal: bool
    heal_tokens: int
    answers: int


def fit(run: Run, limits: Limits, wishes: Wishes) -> Finding:
    """Time candidates, drop those that miss a limit, heal and compare the others.

    What is measured is kept in the run's folder `fit/` as it comes: the same command goes on where it was, and other
    limits measure nothing twice.

    Raises: Problem where no shape can meet the size, where the type is unknown, or where there is no teacher.
    """
    kind = type_of(run.recipe, wishes.kind)
    why = _make_ready(run) if wishes.heal else "it was not asked for"
    folder = run.folder / "fit"
    with run.alone():
        material, tokenizer = find_material(run, kind, folder / "tokenizer")
        candidates = span(material, limits.size_mb, wishes.most)
        notebook = Notebook(folder / "measured.jsonl")
        clock = Clock(material.quantisation, _questions(run), run.recipe.evaluate, notebook)
        timed = clock.time_all(candidates, RandomFiles(folder / "files", material, tokenizer), run.progress)
        fitting = [one.candidate for one in timed if not limits.misses(one.reached())]
        qualities: dict[Candidate, Quality] = {}
        if not why:
            healer = Healer(run, wishes.heal_tokens, wishes.answers, notebook)
            found = healer.heal_all(fitting, folder / "student", run.progress)
            qualities = dict(zip(fitting, found, strict=True))
    return Finding(limits, kind, tuple(_fitted(one, limits, qualities) for one in timed), why)


def _fitted(timed: Timed, limits: Limits, qualities: dict[Candidate, Quality]) -> Fitted:
    return Fitted(timed, limits.misses(timed.reached()), qualities.get(timed.candidate))


def _make_ready(run: Run) -> str:
    """Do the stages that healing reads; returns why nothing can be healed all the same, if so."""
    if run.recipe.prune.initialise == "random":
        return "its students begin with random weights (prune.initialise), which healing does not change"
    for standing in list(pipeline.states(run)):
        if standing.name not in NEEDED or standing.state == "done":
            continue
        if standing.state == "stale":  # somebody's finished run is not made anew behind his back
            return f"`{standing.name}` of {run.folder} is stale: {_remedy(run, standing.name)} makes it again"
        pipeline.run_stage(run, standing.name)
    return "" if len(SignalStore(run.stage("signals"), "held-out")) else "nothing is held out to compare with"


def _remedy(run: Run, stage: str) -> str:
    """What makes a stale stage again: its verb reads the recipe that the folder keeps, perhaps not the one given."""
    try:
        same = open_run(run.folder).recipe == run.recipe
    except Problem:  # none is kept, or one of another potstill
        same = False
    return run.command(stage) if same else f"potstill run RECIPE --run {run.folder} --until {NEEDED[-1]}"


def _questions(run: Run) -> list[str]:
    """What candidates are timed with: questions as a person types them, of the run where it has any yet."""
    path = run.folder / "prompts" / "prompts.jsonl"
    prompts = read_prompts(path) if path.exists() else golden()
    held_out = [prompt for prompt in prompts if prompt.split == "held-out"] or prompts
    chosen = choose_questions([prompt.text for prompt in held_out], run.recipe.evaluate.prompts)
    return [text for length, text in chosen if length == "middle"]
