"""Tables of what comes out: the files that ship, how they are measured, what they must reach.

In:  nothing.
Out: sections with their defaults.
Does not know: teacher, training.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from potstill.recipe.section import Quantisation, Section

GROUPS = ("embedding", "attention", "ffn_in", "ffn_down")
LLAMA_MIXES = ("Q4_K_M", "Q5_K_M")
GUARD = "-guard"
CHOSEN = "chosen"


class MixTable(Section):
    """A mix of your own: a type for every tensor."""

    name: str = Field(pattern=r"^[A-Za-z]\w*$", description="What it is called under types and in its file's name.")
    base: Quantisation = Field(description="The type of every tensor that is not named.")
    tensors: dict[str, Quantisation] = Field(
        min_length=1,
        description="Tensor → type, such as token_embd, attn_v, blk.0.ffn_down, blk.*.attn_k; the first that fits.",
    )

    @model_validator(mode="after")
    def _name_is_its_own(self) -> MixTable:
        if self.name in (*get_args(Quantisation), *LLAMA_MIXES, CHOSEN):
            raise ValueError(f'name = "{self.name}" already means something else')
        return self


def _known_type(name: str, info: ValidationInfo) -> str:
    """A type, a mix of llama.cpp's, one of the recipe's own, or TYPE-group-TYPE…; each with -guard behind or not."""
    own = [mix.name for mix in info.data.get("mixes", ())]
    known = [*get_args(Quantisation), *LLAMA_MIXES, *own]
    plain = name.removesuffix(GUARD)
    base, *rest = plain.split("-")
    composed = base in get_args(Quantisation) and len(rest) % 2 == 0
    if plain in known or (composed and {*rest[::2]} <= {*GROUPS} and {*rest[1::2]} <= {*get_args(Quantisation)}):
        return name
    near = difflib.get_close_matches(plain, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"not a type; known are {', '.join(known)}, and mixes such as Q4_0-embedding-Q8_0 "
        f"(of {', '.join(GROUPS)}){hint}"
    )


TypeName = Annotated[str, AfterValidator(_known_type)]


class ExportSection(Section):
    """What is shipped."""

    mixes: tuple[MixTable, ...] = Field((), description="Mixes of your own, by tensor.")
    types: tuple[TypeName, ...] = Field(
        ("F16", "Q8_0", "IQ4_NL"),
        min_length=1,
        description="GGUFs to write: types, mixes (Q4_K_M, Q4_0-embedding-Q8_0, your own), with -guard behind a type "
        "for the symbol guard: the head's rows of punctuation, digits and indentation in 16 bit.",
    )
    ship: str = Field(
        "IQ4_NL",
        description='The type that is chatted with and scored; among types, or "chosen" with target_mb or max_kl.',
    )
    target_mb: float | None = Field(None, gt=0.0, description="Also write the closest file of at most so many MB.")
    max_kl: float | None = Field(
        None, gt=0.0, description="Also write the smallest file whose KL to the float student is at most this, in nats."
    )
    choice_tokens: int = Field(1500, ge=1, description="Held-out answer tokens that target_mb and max_kl measure on.")
    importance_tokens: int = Field(
        16000,
        ge=0,
        description="Training answer tokens read to learn how what the matrices read goes together, so that the "
        "roundings of a quantised file make up for each other; 0: every weight is rounded for itself.",
    )
    guard_tokens: Path | None = Field(
        None, description="Tokens to guard, a JSON string a line, instead of those that the rule finds."
    )
    guard_most: int = Field(96, ge=1, description="Most tokens that the rule may guard, the commonest first.")
    tolerance: float = Field(
        1e-4, gt=0.0, description="Largest KL of the F16 file to the Transformers student, in nats, that is no error."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> ExportSection:
        names = [mix.name for mix in self.mixes]
        if len(set(names)) < len(names):
            raise ValueError("two mixes have the same name")
        if self.target_mb and self.max_kl:
            raise ValueError("give target_mb or max_kl, not both")
        chooses = self.target_mb or self.max_kl
        if self.ship not in self.types and not (chooses and self.ship == CHOSEN):
            raise ValueError(f'ship = "{self.ship}" is not among types = {list(self.types)}')
        return self


class EvaluationFile(Section):
    """An evaluation set of somebody else's; no prompt that overlaps with it is trained on."""

    path: Path = Field(description="A JSONL file.")
    format: Literal["humaneval", "mbpp", "xcopa", "cmmlu"] = Field(description="Whose fields its lines have.")
    limit: int | None = Field(None, ge=1, description="Use at most this many, evenly over the file; all if absent.")


class EvaluateSection(Section):
    """How the student is measured. A size of 0 leaves a measure out."""

    few: bool = Field(False, description="Measure few items (`--quick`): under three minutes, with wide intervals.")
    fresh: bool = Field(False, description="Ask every model anew, whatever ships with potstill or is kept at home.")
    against: tuple[str, ...] = Field(
        (), description="Other models scored beside: GGUFs or names of `potstill teachers`."
    )
    rounds: int = Field(3, ge=1, description="Times each model is started and timed, in turn.")
    new_tokens: int = Field(64, ge=8, description="Tokens written in each timing.")
    prompts: int = Field(4, ge=1, description="Held-out prompts timed in each round.")
    context: int = Field(512, ge=64, description="Context of the timed engine.")
    fidelity_answers: int | None = Field(None, ge=1, description="Held-out answers compared; all if absent.")
    samples: int = Field(12, ge=0, description="Held-out answers shown side by side in the report.")
    sample_tokens: int = Field(200, ge=8, description="Longest answer shown in the report.")
    code_tasks: int = Field(50, ge=0, le=50, description="Held-out Python tasks each model writes.")
    code_tokens: int = Field(320, ge=16, description="Longest program, in tokens.")
    code_seconds: float = Field(5.0, gt=0.0, description="CPU time of one program in the sandbox.")
    code_memory_mb: int = Field(400, ge=64, description="Memory of one program in the sandbox.")
    commonsense: int = Field(200, ge=0, le=200, description="Questions whose choices are compared by likelihood.")
    commonsense_written: int = Field(100, ge=0, le=200, description="Questions whose answer each model writes.")
    stability_questions: int = Field(8, ge=0, le=20, description="Questions that are asked again and again.")
    stability_samples: int = Field(10, ge=2, le=100, description="Sampled answers to each of them.")
    reply_context: int = Field(1024, ge=128, description="Longest question and reply together, in a model's tokens.")
    stability_tokens: int = Field(96, ge=8, description="Longest of these answers, in tokens.")
    files: tuple[EvaluationFile, ...] = Field((), description="Evaluation sets of others, scored beside our own.")
    bootstrap: int = Field(1000, ge=100, description="Resamples behind intervals over answers and questions.")

    @model_validator(mode="after")
    def _names_apart(self) -> EvaluateSection:
        names = [file.path.stem for file in self.files]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"several files are called {', '.join(twice)}, and the scorecard names sets by their files"
            )
        return self

    def sizes(self) -> EvaluateSection:
        """The sizes in force: as they stand, or at most a handful of each."""
        if not self.few:
            return self
        least = {
            **{"rounds": 1, "prompts": 2, "fidelity_answers": 6, "samples": 3, "code_tasks": 6},
            **{"commonsense": 20, "commonsense_written": 10, "stability_questions": 2, "stability_samples": 4},
        }
        given = {name: getattr(self, name) for name in least}
        sizes = {name: size if given[name] is None else min(size, given[name]) for name, size in least.items()}
        files = tuple(file.model_copy(update={"limit": min(file.limit or 6, 6)}) for file in self.files)
        return self.model_copy(update={**sizes, "files": files})


GATES = {
    "speed.first_token_ms": "<= 0.66 x teacher",
    "speed.decode_tok_s": ">= 20",
    "size.file_mb": "<= 320",
    "code.runs": ">= teacher - 0.06",
    "commonsense.error": "<= teacher + 0.04",
}
