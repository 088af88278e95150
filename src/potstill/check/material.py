"""The text of a recipe, counted before anything is asked or written.

In:  a recipe; of its prompt files, how many lines they have.
Out: a `Material`: how many prompts train, are held out and must be answered, and how long an exchange is.
Does not know: models, machines, time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from potstill.answers.settings import Settings, settings_of
from potstill.answers.shipped import GOLDEN_ANSWERS, MADE_UP_ANSWERS, shipped_count
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
        to_make_up: prompts that the teacher must make up.
    """

    training: int
    held_out: int
    to_answer: int
    question: float
    answer: float
    to_make_up: int = 0

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
        max(0, made_up - _made_up(recipe)),
    )


def _held_out(prompts: Sequence[Prompt]) -> int:
    return sum(prompt.split == "held-out" for prompt in prompts)


def _to_answer(recipe: Recipe, prompts: int, own: int) -> int:
    """What this machine writes, not a server: the default teacher's answers to golden and made-up prompts ship."""
    if recipe.answers.server:
        return 0
    settings = settings_of(recipe.answers)
    ours = shipped_count(GOLDEN_ANSWERS, settings) > 0 or not recipe.prompts.golden
    if recipe.answers.fresh or recipe.teacher.model != CATALOGUE[0].name or not ours:
        return prompts
    return min(prompts, own + max(0, recipe.prompts.synthetic.count - _made_up(recipe, settings)))


def _made_up(recipe: Recipe, settings: Settings | None = None) -> int:
    """Made-up prompts that ship; with answers written with these settings, if given."""
    usual = SyntheticSection.model_validate({"count": recipe.prompts.synthetic.count})
    fits = recipe.teacher.model == CATALOGUE[0].name and recipe.prompts.synthetic == usual and recipe.seed == 0
    return shipped_count(MADE_UP_ANSWERS, settings) if fits else 0


def _lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())
    except OSError:
        return 0
