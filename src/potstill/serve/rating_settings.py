"""What the operator of a blind rating asks for: two models and the questions, as a TOML file.

In:  a TOML file written by a person; the names of the models at hand.
Out: frozen `RatingSettings`, or one `Problem` that lists every mistake.
Does not know: raters, answers, how anything is stored or shown.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from potstill.problem import Problem
from potstill.toml import read_toml, validated

Question = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
EXAMPLE = 'Write: models = ["student", "teacher"] and questions = ["…", "…"], ten of them.'


class RatingSettings(BaseModel):
    """A blind rating: every rater reads one answer of each model to every question, side by side."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    models: tuple[str, str] = Field(description="The two models, by the names this server offers.")
    questions: tuple[Question, ...] = Field(
        min_length=1, max_length=50, description="One for each turn; each stands alone. Ten is the published number."
    )
    raters_per_conversation: int = Field(
        2, ge=1, le=1000, description="Raters who read the same answers. From 2 on, their agreement can be measured."
    )
    characters_per_second: float = Field(
        24.0, gt=0.0, le=10000.0, description="Pace at which either answer appears; the same whoever wrote it."
    )
    max_tokens: int = Field(320, ge=8, le=4096, description="Longest answer, in a model's tokens.")

    @model_validator(mode="after")
    def _two_of_a_kind(self) -> Self:
        if self.models[0] == self.models[1]:
            raise ValueError("models: two different ones are compared")
        if len(set(self.questions)) < len(self.questions):
            raise ValueError("questions: one of them is there twice")
        return self


def load_rating_settings(path: Path, offered: Collection[str]) -> RatingSettings:
    """Read and validate the file. Raises: Problem naming every mistake, or a model that is not `offered`."""
    settings = validated(RatingSettings, read_toml(path, EXAMPLE), str(path), EXAMPLE)
    if unknown := [name for name in settings.models if name not in offered]:
        raise Problem(f"{path}: there is no model {unknown[0]!r} here", f"Choose two of: {', '.join(offered)}.")
    return settings
