"""The text of a recipe, counted before anything is asked or written.

In:  a recipe; of its prompt files, how many lines they have.
Out: a `Material`: how many prompts train, are held out and must be answered, and how long an exchange is.
Does not know: models, machines, time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from potstill.answers.shipped import MADE_UP_ANSWERS, shipped_count
from potstill.models.catalogue import CATALOGUE
from potstill.prompts import Prompt, golden
from potstill.recipe import Recipe, SyntheticSection


@dataclass(frozen=True)
class Length:
    """Mean tokens of a prompt in its template, and of the answer to it."""

    question: int
    answer: int


PEOPLES, MADE_UP = Length(62, 155), Length(49, 211)
"""Of the golden 200 (and, as a guess, of other files); of 3,000 made-up prompts: each with its shipped answers."""


@dataclass(frozen=True)
class Material:
    """Prompts before duplicates are dropped, and mean tokens of theirs.

    Args:
        training: that train. held_out: that never do. to_answer: of both, what the teacher must answer itself.
        question: tokens of a prompt in its template. answer: tokens of an answer.
    """

    training: int
    held_out: int
    to_answer: int
    question: float
    answer: float

    @property
    def prompts(self) -> int:
        """Training and held-out ones together."""
        return self.training + self.held_out

    @property
    def exchange(self) -> float:
        """Tokens of a prompt and its answer."""
        return self.question + self.answer


def count_material(recipe: Recipe) -> Material:
    """Golden prompts, made-up ones, and lines of the user's files; `prompts.limit` keeps people's first."""
    ours, files = golden() if recipe.prompts.golden else [], recipe.prompts.files
    lines = {file.path: _lines(file.path) for file in files}
    held_out = _held_out(ours) + sum(round(lines[file.path] * file.held_out_share) for file in files)
    peoples = len(ours) + sum(lines[file.path] for file in files) - held_out
    made_up = recipe.prompts.synthetic.count
    training = min(peoples + made_up, recipe.prompts.limit or peoples + made_up)
    share = max(training - peoples, 0) / max(training, 1)
    return Material(
        training,
        held_out,
        _to_answer(recipe, training + held_out, sum(lines.values())),
        PEOPLES.question + share * (MADE_UP.question - PEOPLES.question),
        PEOPLES.answer + share * (MADE_UP.answer - PEOPLES.answer),
    )


def _held_out(prompts: Sequence[Prompt]) -> int:
    return sum(prompt.split == "held-out" for prompt in prompts)


def _to_answer(recipe: Recipe, prompts: int, own: int) -> int:
    """What this machine writes, not a server: the default teacher's answers to golden and made-up prompts ship."""
    if recipe.answers.server:
        return 0
    if recipe.answers.fresh or recipe.teacher.model != CATALOGUE[0].name:
        return prompts
    synthetic = recipe.prompts.synthetic
    usual = SyntheticSection.model_validate({"count": synthetic.count})
    ships = shipped_count(MADE_UP_ANSWERS) if synthetic == usual and recipe.seed == 0 else 0
    return min(prompts, own + max(0, synthetic.count - ships))


def _lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())
    except OSError:
        return 0
