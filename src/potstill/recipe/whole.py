"""The whole recipe: every table, and what must fit together between them.

In:  nothing.
Out: `Recipe`.
Does not know: files, the command line.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from potstill.bounds import Gates
from potstill.recipe.material import AnswersSection, PromptsSection, SignalsSection, TeacherSection, VocabSection
from potstill.recipe.product import GATES, GUARD, EvaluateSection, ExportSection
from potstill.recipe.section import Section
from potstill.recipe.storage import StorageSection
from potstill.recipe.student import DistillSection, PruneSection


class Recipe(Section):
    """The whole file."""

    name: str = Field(
        pattern=r"^[\w][\w .-]*$",
        description="Name of the run and of its files; runs/<name> unless --run says otherwise.",
    )
    seed: int = Field(0, ge=0, description="Seed of everything that is drawn.")
    teacher: TeacherSection = Field(default_factory=lambda: TeacherSection.model_validate({}))
    prompts: PromptsSection = Field(default_factory=lambda: PromptsSection.model_validate({}))
    answers: AnswersSection = Field(default_factory=lambda: AnswersSection.model_validate({}))
    vocab: VocabSection = Field(default_factory=lambda: VocabSection.model_validate({}))
    signals: SignalsSection = Field(default_factory=lambda: SignalsSection.model_validate({}))
    prune: PruneSection = Field(default_factory=lambda: PruneSection.model_validate({}))
    distill: DistillSection = Field(default_factory=lambda: DistillSection.model_validate({}))
    export: ExportSection = Field(default_factory=lambda: ExportSection.model_validate({}))
    evaluate: EvaluateSection = Field(default_factory=lambda: EvaluateSection.model_validate({}))
    # Out of its printed form, which is what the report is made from: no result depends on where files are kept.
    storage: StorageSection = Field(default_factory=lambda: StorageSection.model_validate({}), repr=False)
    gates: Gates = Field(
        default_factory=lambda: dict(GATES),
        description="What the student must reach to be shipped: metric of the scorecard → bound.",
    )

    @model_validator(mode="after")
    def _answers_fit_what_is_read(self) -> Recipe:
        if self.answers.max_tokens >= self.answers.context:
            raise ValueError("answers.max_tokens must be smaller than answers.context, or no prompt fits")
        prompts = self.prompts
        if not (prompts.golden or prompts.files or prompts.synthetic.count):
            raise ValueError(
                "there is nothing to ask: set prompts.golden = true, name a file under [[prompts.files]], or set "
                "prompts.synthetic.count"
            )
        if prompts.synthetic.count and prompts.synthetic.max_tokens > self.answers.context // 2:
            raise ValueError("prompts.synthetic.max_tokens must leave half of answers.context to the answer")
        return self

    @model_validator(mode="after")
    def _what_is_rounded_for_is_written(self) -> Recipe:
        finish = self.distill.finish
        if finish.share and finish.type not in self.export.types:
            raise ValueError(
                f"distill.finish rounds for {finish.type}, which export.types = {list(self.export.types)} does not "
                f'write: add it there, and set export.ship = "{finish.type}"'
            )
        if finish.share and finish.type != self.export.ship.removesuffix(GUARD):
            raise ValueError(
                f"distill.finish rounds for {finish.type}, and {self.export.ship} would be rounded a second time: set "
                f'export.ship = "{finish.type}"'
            )
        return self

    def teacher_layers(self) -> tuple[int, ...]:
        """Teacher layers (from 1) whose states the signals must hold beside the last one."""
        return tuple(sorted({pair.teacher for pair in self.distill.hidden_pairs}))

    def attention_layers(self) -> tuple[int, ...]:
        """Teacher layers (from 1) whose attention maps the signals must hold."""
        return tuple(sorted({pair.teacher for pair in self.distill.attention_pairs}))
