"""What a shape is worth before any training: cut, healed briefly, compared with the teacher on held-out answers.

In:  a run whose signals are there, candidates.
Out: `Quality`: held-out KL and top-1 of each, with count and interval.
Does not know: speed, limits.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from potstill import pipeline
from potstill.evaluate.fidelity import add_fidelity, checkpoint_fidelity, spread_over
from potstill.evaluate.scorecard import Measure, Scorecard
from potstill.fidelity import Fidelity
from potstill.fit.candidates import Candidate
from potstill.notebook import Notebook
from potstill.progress import Progress, Silent
from potstill.prune import prune
from potstill.run import Run, digest
from potstill.signals.store import SignalStore


@dataclass(frozen=True)
class Quality:
    """Of the healed, untrained student, before its weights are rounded: KL in nats, top-1 as a share."""

    kl: Measure
    top1: Measure


@dataclass(frozen=True)
class Healer:
    """Heals and compares candidates of one run.

    Args:
        heal_tokens: calibration tokens read for each; fewer than a recipe's, so that each takes a minute, not four.
        answers: held-out answers compared.
    """

    run: Run
    heal_tokens: int
    answers: int
    notebook: Notebook

    def heal_all(self, candidates: Sequence[Candidate], folder: Path, progress: Progress) -> list[Quality]:
        """Every candidate's quality; each is kept as it comes. `folder` is for what lies there in between."""
        found = []
        with progress.task("healed and compared", len(candidates), "shapes") as task:
            for candidate in candidates:
                task.describe(candidate.name)
                wanted = self._wanted(candidate)
                stamp = digest([pipeline.fingerprints(wanted)["prune"], self.answers])
                key = f"{candidate.name}, healed, {stamp}"
                if key not in self.notebook:
                    self.notebook.put(key, self._heal(wanted, folder))
                    task.advance()
                else:
                    task.resume(1)
                found.append(self._quality(self.notebook[key]))
        return found

    def _wanted(self, candidate: Candidate) -> Run:
        """The run, if it were to cut this shape."""
        spec, recipe = candidate.spec, self.run.recipe
        fewer = min(self.heal_tokens, recipe.prune.calibration_tokens)
        shape = {"layers": spec.layers, "ffn": spec.ffn, "hidden": spec.hidden, "calibration_tokens": fewer}
        section = recipe.prune.model_copy(update=shape)
        return replace(self.run, recipe=recipe.model_copy(update={"prune": section}), progress=Silent())

    def _heal(self, wanted: Run, folder: Path) -> dict[str, Any]:
        """What the stage `prune` makes of the shape, answer by answer."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            prune(wanted, folder)
            store = SignalStore(self.run.stage("signals"), "held-out")
            chosen = spread_over(store, self.answers)
            with Silent().task("", len(chosen), "") as task:
                answers = checkpoint_fidelity(store, chosen, folder / "student", task)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        categories = [store.examples[index].category for index in chosen]
        return {"categories": categories, "answers": [[asdict(part) for part in answer] for answer in answers]}

    def _quality(self, kept: dict[str, Any]) -> Quality:
        card, recipe = Scorecard(), self.run.recipe
        answers = [[Fidelity(**part) for part in answer] for answer in kept["answers"]]
        add_fidelity(card, "healed", answers, kept["categories"], recipe.evaluate.bootstrap, recipe.seed)
        return Quality(card.measures["fidelity.kl"]["healed"], card.measures["fidelity.top1"]["healed"])
