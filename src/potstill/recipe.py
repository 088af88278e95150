"""What is asked for: the whole of a run as one TOML file, validated.

In:  a TOML file written by a person.
Out: a frozen `Recipe` with every path made absolute, or one `Problem` that lists every mistake.
Does not know: run folders, stages, models, this machine. Every default of the project lives here.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from potstill.bounds import Gates
from potstill.problem import Problem

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Quantisation = Literal["F16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0"]


class Section(BaseModel):
    """One table of the recipe: frozen, and without room for a key nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TeacherSection(Section):
    """Who teaches."""

    model: str = Field(
        "qwen2.5-coder-0.5b-instruct",
        description="A name of `potstill teachers`, a Hub repository (owner/name), or a local GGUF or folder.",
    )


class PromptFile(Section):
    """One file of the user's own prompts."""

    path: Path = Field(description="JSONL, CSV, plain text (a prompt a line) or a saved `datasets` folder.")
    category: str = Field("own", description="Category of prompts that do not bring one.")
    prompt_field: str = Field("prompt", description="Column or key that holds the question.")
    answer_field: str = Field("answer", description="Column or key of a given answer; may be missing.")
    held_out_share: Share = Field(0.0, description="Share of these prompts kept away from training, 0 to 1.")


class PromptsSection(Section):
    """What the teacher is asked."""

    golden: bool = Field(True, description="Use the golden 200 that ship with potstill.")
    files: tuple[PromptFile, ...] = Field((), description="The user's own prompts.")
    skip_bad: bool = Field(False, description="Skip lines that cannot be read (they are counted) instead of stopping.")
    near_duplicate: Share = Field(
        0.8,
        description="Prompts whose character 3-grams overlap (Jaccard) by more than this count as the same; what is "
        "held out is also protected from prompts that contain it by more than this.",
    )
    limit: int | None = Field(None, ge=1, description="Keep at most this many training prompts; all if absent.")


class AnswersSection(Section):
    """How the teacher answers."""

    fresh: bool = Field(False, description="Write the golden answers anew even where the shipped ones fit.")
    temperature: float = Field(0.7, ge=0.0, le=2.0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(0.8, gt=0.0, le=1.0, description="Nucleus sampling: smallest set with this much probability.")
    top_k: int = Field(20, ge=1, description="Sample from this many tokens at most.")
    repeat_penalty: float = Field(1.1, ge=1.0, le=2.0, description="Divides the logits of repeated tokens.")
    max_tokens: int = Field(320, ge=8, le=4096, description="Longest answer, in teacher tokens.")
    context: int = Field(768, ge=128, le=32768, description="Prompt and answer together, in teacher tokens.")
    slots: int = Field(
        8,
        ge=1,
        le=64,
        description="Answers written at the same time; only 1 gives the same text twice.",
    )


class VocabSection(Section):
    """Which of the teacher's tokens the student keeps."""

    size: int = Field(32768, ge=512, multiple_of=64, description="Tokens kept, special ones included.")
    texts: tuple[Path, ...] = Field((), description="Text files whose tokens should be kept too.")
    expectation_tokens: int = Field(
        8192, ge=0, description="Training answer tokens whose distributions say which unseen tokens the teacher likes."
    )
    coverage_tokens: int = Field(2048, ge=0, description="Held-out answer tokens that measure the kept probability.")


class SignalsSection(Section):
    """How the teacher's thoughts are kept."""

    format: Literal["hidden", "topk"] = Field(
        "hidden", description="hidden: last hidden state, all logits exact. topk: K ids with an exact rest."
    )
    precision: Literal["int8", "float16"] = Field("int8", description="Storage of hidden states.")
    group: int = Field(128, ge=8, description="Values that share one int8 scale; must divide the teacher's width.")
    k: int = Field(64, ge=1, description="Tokens kept a position in the topk format.")
    batch_tokens: int = Field(2048, ge=64, description="Tokens the teacher reads at once.")
    shard_answers: int = Field(40, ge=1, description="Answers in a shard: the unit that survives a kill.")
    context: int = Field(
        768, ge=64, description="Longest prompt + answer read, in student tokens; longer ones are cut."
    )


class PruneSection(Section):
    """The student's shape, and how it is cut from the teacher."""

    layers: int | None = Field(24, ge=1, description="Layers kept; absent: all.")
    ffn: int | None = Field(
        None, ge=32, multiple_of=32, description="Feed-forward neurons a layer; absent: from parameters."
    )
    parameters: int | None = Field(
        150_000_000, ge=1, description="Target size. Ignored where both layers and ffn are given."
    )
    choose: Literal["influence", "even"] = Field("influence", description="How the kept layers are chosen.")
    heal: bool = Field(True, description="Refit each kept layer's down-projection in closed form.")
    ridge: float = Field(0.03, gt=0.0, le=10.0, description="Ridge strength, in units of the mean diagonal of AᵀA.")
    calibration_tokens: int = Field(60_000, ge=256, description="Tokens read to choose and to heal.")
    texts: tuple[Path, ...] = Field((), description="Text files that calibration may read beside the run's own text.")


class TemperatureSection(Section):
    """The temperature both sides are softened with, over the run."""

    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="How start turns into end.")
    start: float = Field(1.0, gt=0.0, le=20.0, description="Temperature at the first step.")
    end: float = Field(1.0, gt=0.0, le=20.0, description="Temperature at the last step.")
    levels: int = Field(7, ge=2, le=64, description="Steps of the staircase between them.")

    @model_validator(mode="after")
    def _constant_is_constant(self) -> TemperatureSection:
        if self.schedule == "constant" and self.start != self.end:
            raise ValueError('a constant schedule needs start = end; use schedule = "linear" or "cosine"')
        return self

    def values(self) -> tuple[float, ...]:
        """Every temperature the run will use: what the topk signals need an exact tail for."""
        if self.schedule == "constant":
            return (self.start,)
        step = (self.end - self.start) / (self.levels - 1)
        return tuple(self.start + step * level for level in range(self.levels))


class HiddenPair(Section):
    """A student layer that should think like a teacher layer (counted from 1)."""

    student: int = Field(ge=1, description="Student layer, from 1.")
    teacher: int = Field(ge=1, description="Teacher layer, from 1.")
    weight: float = Field(1.0, gt=0.0, description="Weight of this pair's cosine loss.")


class DistillSection(Section):
    """How the student is trained."""

    budget_minutes: float | None = Field(
        None, gt=0.0, description="Wall-clock training time; the learning rate lands at 0 when it ends. Absent: epochs."
    )
    epochs: float = Field(1.0, gt=0.0, description="Passes over the answers where no budget is given.")
    learning_rate: float = Field(1e-5, gt=0.0, le=1.0, description="Peak learning rate.")
    warmup: Share = Field(0.2, description="Share of the run in which the learning rate rises.")
    still: Share = Field(
        0.05, description="Share of the run, before the warm-up, that fills the optimiser's moments and moves nothing."
    )
    weight_decay: float = Field(0.0, ge=0.0, le=1.0, description="AdamW weight decay.")
    beta2: float = Field(
        0.95, gt=0.0, lt=1.0, description="AdamW's second-moment decay; short runs want it below 0.99."
    )
    gradient_clip: float = Field(1.0, gt=0.0, description="Largest gradient norm.")
    batch_tokens: int = Field(1024, ge=32, description="Tokens a micro-batch, padding included.")
    accumulation: int = Field(1, ge=1, description="Micro-batches a step.")
    logit_weight: float = Field(1.0, ge=0.0, description="Weight of T²·KL on the logits.")
    temperature: TemperatureSection = Field(default_factory=lambda: TemperatureSection.model_validate({}))
    hidden_pairs: tuple[HiddenPair, ...] = Field((), description="Layers matched by cosine.")
    checkpoint_seconds: float = Field(120.0, gt=0.0, description="Time between checkpoints.")
    chunk_rows: int = Field(256, ge=1, description="Answer positions whose logits exist at the same time.")


class ExportSection(Section):
    """What is shipped."""

    types: tuple[Quantisation, ...] = Field(("F16", "Q8_0", "Q4_0"), min_length=1, description="GGUF types to write.")
    ship: Quantisation = Field("Q4_0", description="The type that is chatted with and scored; must be among types.")
    tolerance: float = Field(0.03, gt=0.0, description="Largest logit difference of F16 to the Transformers student.")

    @model_validator(mode="after")
    def _ships_what_it_writes(self) -> ExportSection:
        if self.ship not in self.types:
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
    bootstrap: int = Field(1000, ge=100, description="Resamples behind each interval.")

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
    gates: Gates = Field(
        default_factory=lambda: dict(GATES),
        description="What the student must reach to be shipped: metric of the scorecard → bound.",
    )

    @model_validator(mode="after")
    def _answers_fit_what_is_read(self) -> Recipe:
        if self.answers.max_tokens >= self.answers.context:
            raise ValueError("answers.max_tokens must be smaller than answers.context, or no prompt fits")
        if not self.prompts.golden and not self.prompts.files:
            raise ValueError(
                "there is nothing to ask: set prompts.golden = true or name a file under [[prompts.files]]"
            )
        return self

    def teacher_layers(self) -> tuple[int, ...]:
        """Teacher layers (from 1) whose states the signals must hold beside the last one."""
        return tuple(sorted({pair.teacher for pair in self.distill.hidden_pairs}))


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe file.

    Paths inside it are taken relative to the file. Raises: Problem naming every mistake at once.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except FileNotFoundError:
        raise Problem(f"{path}: no such recipe", "Recipes that ship with potstill lie in recipes/.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{path}: cannot be read ({error})", "Give a UTF-8 text file in TOML.") from None
    except tomllib.TOMLDecodeError as error:
        raise Problem(f"{path}: not valid TOML: {error}", "Mend that place and try again.") from None
    return _resolved(validate_recipe(data, str(path)), path.resolve().parent)


def validate_recipe(data: dict[str, Any], place: str) -> Recipe:
    """A `Recipe` from parsed TOML; `place` names the file in the error. Strict: "3" is not a number."""
    try:
        return Recipe.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        lines = [_mistake(dict(item)) for item in error.errors()]
        count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        listed = "\n".join(f"  {line}" for line in lines)
        raise Problem(f"{place}: {count}\n{listed}", "`potstill schema` lists every key.") from None


def _mistake(item: dict[str, Any]) -> str:
    keys = list(item["loc"])
    place = ".".join(str(key) for key in keys) or "recipe"
    if item["type"] == "extra_forbidden":
        known = _known_keys(keys[:-1])
        near = difflib.get_close_matches(str(keys[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
        return f"{place}: unknown key; {hint}"
    if item["type"] == "missing":
        return f"{place}: missing, and it has no default"
    message = str(item["msg"]).removeprefix("Value error, ")
    given = item.get("input")
    shown = "" if isinstance(given, dict | list) else f" (given: {json.dumps(given, ensure_ascii=False, default=str)})"
    choice = _near_choice(item)
    return f"{place}: {message[:1].lower()}{message[1:]}{choice}{shown}"


def _near_choice(item: dict[str, Any]) -> str:
    if item["type"] != "literal_error":
        return ""
    choices = [choice.strip().strip("'") for choice in str(item["ctx"]["expected"]).replace(" or ", ", ").split(",")]
    near = difflib.get_close_matches(str(item["input"]), choices, n=1, cutoff=0.4)
    return f"; did you mean '{near[0]}'?" if near else ""


def _known_keys(place: list[str | int]) -> list[str]:
    model: type[BaseModel] = Recipe
    for key in place:
        if isinstance(key, int):
            continue
        annotation = model.model_fields[key].annotation
        inner = [part for part in (annotation, *get_args(annotation)) if isinstance(part, type)]
        sections = [part for part in inner if issubclass(part, BaseModel)]
        if not sections:
            return []
        model = sections[0]
    return list(model.model_fields)


def _resolved(recipe: Recipe, folder: Path) -> Recipe:
    files = tuple(file.model_copy(update={"path": folder / file.path}) for file in recipe.prompts.files)
    sets = tuple(file.model_copy(update={"path": folder / file.path}) for file in recipe.evaluate.files)
    against = tuple(str(folder / one) if (folder / one).exists() else one for one in recipe.evaluate.against)
    model = recipe.teacher.model
    if (folder / model).exists():
        model = str(folder / model)
    return recipe.model_copy(
        update={
            "teacher": TeacherSection(model=model),
            "prompts": recipe.prompts.model_copy(update={"files": files}),
            "vocab": recipe.vocab.model_copy(update={"texts": tuple(folder / text for text in recipe.vocab.texts)}),
            "prune": recipe.prune.model_copy(update={"texts": tuple(folder / text for text in recipe.prune.texts)}),
            "evaluate": recipe.evaluate.model_copy(update={"files": sets, "against": against}),
        }
    )


def with_evaluation(recipe: Recipe, few: bool, fresh: bool, against: Sequence[str]) -> Recipe:
    """The recipe with what `potstill evaluate` was told; no other models: those the recipe names."""
    told: dict[str, Any] = {"few": few, "fresh": fresh, **({"against": tuple(against)} if against else {})}
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update=told)})


def with_options(recipe: Recipe, minutes: float | None, skip_bad: bool) -> Recipe:
    """The recipe with what the command line says: another training time (None: its own); bad lines skipped."""
    if minutes is not None:
        recipe = recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"budget_minutes": minutes})})
    if skip_bad:
        recipe = recipe.model_copy(update={"prompts": recipe.prompts.model_copy(update={"skip_bad": True})})
    return recipe
