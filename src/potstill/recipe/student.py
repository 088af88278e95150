"""Tables of the student's part: its shape, and how it is trained.

In:  nothing.
Out: sections with their defaults.
Does not know: who teaches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from potstill.recipe.section import Section, Share


class PruneSection(Section):
    """The student's shape, and how it is cut: from the teacher, or from another model."""

    base: str | None = Field(
        None,
        description="Model the student is cut from: a Hub repository, a local folder or GGUF. Absent: the teacher. "
        "One with a tokenizer of its own keeps that; its tokens are then bound to the teacher's ([vocab.binding]).",
    )
    initialise: Literal["cut", "random"] = Field(
        "cut", description="random: the shape alone, for where no weights can be had. It starts knowing nothing."
    )
    hidden: int | None = Field(None, ge=32, multiple_of=32, description="Hidden width; absent: the base's.")
    narrow: Literal["crop", "rotate"] = Field(
        "crop",
        description="How a smaller hidden width is reached. crop: dimensions of least variance go. rotate: all are "
        "turned into their principal axes first; exact where embedding and head are not tied.",
    )
    heads: int | None = Field(None, ge=1, description="Attention heads; absent: the base's, or as hidden asks.")
    kv_heads: int | None = Field(None, ge=1, description="Key-value heads; absent: the base's, or as heads ask.")
    layers: int | None = Field(None, ge=1, description="Layers kept; absent: all.")
    ffn: int | None = Field(
        None, ge=32, multiple_of=32, description="Feed-forward neurons a layer; absent: from parameters."
    )
    parameters: int | None = Field(
        150_000_000, ge=1, description="Target size. Ignored where both layers and ffn are given."
    )
    choose: Literal["influence", "even"] = Field("influence", description="How the kept layers are chosen.")
    heal: bool = Field(
        True,
        description="Refit each kept layer's down-projection in closed form, to the base's own stream as far as the "
        "student's width holds it. Random weights have nothing to heal.",
    )
    ridge: float = Field(0.03, gt=0.0, le=10.0, description="Ridge strength, in units of the mean diagonal of AᵀA.")
    calibration_tokens: int = Field(60_000, ge=256, description="Tokens read to choose and to heal.")
    texts: tuple[Path, ...] = Field((), description="Text files that calibration may read beside the run's own text.")

    @model_validator(mode="after")
    def _random_needs_a_base(self) -> PruneSection:
        if self.initialise == "random" and self.base is None:
            raise ValueError('initialise = "random" needs base: the folder with the config.json of the shape')
        return self


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


class LossesSection(Section):
    """Weights of what the student's distribution is trained on; 0 leaves a loss out."""

    forward_kl: float = Field(1.0, ge=0.0, description="T²·KL(teacher ‖ student): covers all the teacher likes.")
    reverse_kl: float = Field(0.0, ge=0.0, description="T²·KL(student ‖ teacher): seeks what the teacher likes most.")
    jensen_shannon: float = Field(0.0, ge=0.0, description="Generalised Jensen-Shannon divergence, times T².")
    skewed_kl: float = Field(0.0, ge=0.0, description="T²·KL(teacher ‖ mixture of both): no infinite logarithms.")
    total_variation: float = Field(0.0, ge=0.0, description="Half the summed absolute difference, times T².")
    cross_entropy: float = Field(0.0, ge=0.0, description="-log q of the answer's own tokens, at T = 1.")
    mixture: float = Field(0.5, gt=0.0, lt=1.0, description="Teacher's share in Jensen-Shannon's mixture.")
    skew: float = Field(0.1, gt=0.0, lt=1.0, description="Teacher's share in the skewed KL's mixture.")
    shares_every: int = Field(
        0, ge=0, description="Steps between measurements of each loss's share of the gradient; 0: never. Costs time."
    )

    def weights(self) -> dict[str, float]:
        """Name of each loss that counts → its weight."""
        names = ("forward_kl", "reverse_kl", "jensen_shannon", "skewed_kl", "total_variation", "cross_entropy")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


class TailSection(Section):
    """The end of an answer, left out of the logit losses now and then."""

    probability: Share = Field(0.0, description="Chance, for each answer in each step, that its tail is left out.")
    share: Share = Field(0.15, description="Part of an answer that is its tail.")


class HiddenPair(Section):
    """A student layer that should think like a teacher layer (counted from 1).

    What a last layer says is taken behind the model's final norm, as its head reads it: it belongs to the other's last.
    """

    student: int = Field(ge=1, description="Student layer, from 1; the last one goes with the teacher's last alone.")
    teacher: int = Field(ge=1, description="Teacher layer, from 1; the last one goes with the student's last alone.")
    weight: float = Field(1.0, gt=0.0, description="Weight of this pair's cosine loss.")


class AttentionPair(Section):
    """A student layer that should look where a teacher layer looks (counted from 1)."""

    student: int = Field(ge=1, description="Student layer, from 1.")
    teacher: int = Field(ge=1, description="Teacher layer, from 1.")
    weight: float = Field(1.0, gt=0.0, description="Weight of the KL between their attention maps (mean over heads).")


class LoraSection(Section):
    """Low-rank adapters, merged into the student before it is exported."""

    rank: int = Field(8, ge=1, le=512, description="Rank of the adapters.")
    alpha: float = Field(16.0, gt=0.0, description="Their outputs are multiplied by alpha / rank.")
    targets: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Layers that get one, by the end of their names, such as q_proj; absent: every linear layer but "
        "the head.",
    )


class ConsistencySection(Section):
    """Several answers to one question should mean the same."""

    weight: float = Field(0.0, ge=0.0, description="Weight of the policy-gradient loss; 0 leaves it out.")
    every: int = Field(8, ge=1, description="Steps between two samplings.")
    questions: int = Field(4, ge=1, description="Training questions a sampling.")
    samples: int = Field(4, ge=3, le=64, description="Answers to each; with two, neither can be the better one.")
    temperature: float = Field(0.9, gt=0.0, le=2.0, description="Sampling temperature.")
    max_tokens: int = Field(64, ge=4, description="Longest sampled answer, in tokens.")
    clip: float = Field(0.85, gt=0.0, le=1.0, description="Similarity beyond which nothing more is earned.")
    embedder: str = Field(
        "use-multilingual",
        description="Sentence embeddings: use-multilingual (offline, Chinese) or a sentence-transformers model.",
    )


class OnPolicySection(Section):
    """The student writes, the teacher reads what it wrote."""

    share: Share = Field(0.0, description="Share of micro-batches that hold the student's own answers; 0: none.")
    every: int = Field(20, ge=1, description="Steps between two writings; every writing has the current weights.")
    questions: int = Field(16, ge=1, description="Training questions answered each time.")
    temperature: float = Field(1.0, ge=0.0, le=2.0, description="Sampling temperature.")
    max_tokens: int = Field(96, ge=4, description="Longest of these answers, in tokens.")


class JointSection(Section):
    """Instruction tuning on given answers (a person's or another reference), mixed with distillation."""

    share: Share | None = Field(
        None, description="Share of micro-batches made of given answers; absent: as often as they come."
    )
    losses: Literal["same", "cross_entropy"] = Field(
        "same", description="What given answers teach: the same losses as the teacher's, or their own tokens alone."
    )


class FinishSection(Section):
    """The last part of the training runs with the rounding of the shipped file."""

    share: Share = Field(0.0, description="Share of the training, at its end, that runs on rounded weights; 0: none.")
    type: Literal["Q4_0", "Q8_0"] = Field("Q4_0", description="Whose rounding: the type that is to be shipped.")


class AdapterSection(Section):
    """A low-rank adapter for one kind of question, trained on the finished student and switched on on demand."""

    category: str | None = Field(
        None,
        pattern=r"^[\w-]+$",
        description='Category of the answers that it learns from, such as "code"; also its name. Absent: no adapter.',
    )
    minutes: float = Field(10.0, gt=0.0, description="Its own wall-clock training time, after the student's.")
    rank: int = Field(16, ge=1, le=512, description="Its rank: what it can hold, and what it weighs.")
    alpha: float = Field(32.0, gt=0.0, description="Its outputs are multiplied by alpha / rank.")
    learning_rate: float = Field(2e-4, gt=0.0, le=1.0, description="Peak learning rate.")


class CurvatureSection(Section):
    """What `distill.optimiser = "natural"` measures before the training."""

    tokens: int = Field(12_000, ge=256, description="Tokens read to see how the inputs of the matrices spread.")
    damping: float = Field(
        0.01, gt=0.0, le=10.0, description="Added to every direction's second moment, in units of their mean."
    )


PEAK_RATE, DEEP_CUT, SLOWEST = 5e-5, 0.65, 0.1
"""The learning rate where nobody asks for one; from which share of the body on, cut away, it is whole; and what part
of it is left where hardly anything is cut."""


class DistillSection(Section):
    """How the student is trained."""

    budget_minutes: float | None = Field(
        None, gt=0.0, description="Wall-clock training time; the learning rate lands at 0 when it ends. Absent: epochs."
    )
    epochs: float = Field(1.0, gt=0.0, description="Passes over the answers where no budget is given.")
    trained: Literal["all", "feed-forward", "lora", "nf4-lora"] = Field(
        "all",
        description="Which weights move: all; feed-forward (attention, norms and embeddings frozen); lora: adapters on "
        "the full-precision student; nf4-lora: adapters on a 4-bit one.",
    )
    lora: LoraSection = Field(default_factory=lambda: LoraSection.model_validate({}))
    learning_rate: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="Peak learning rate. Absent: 5e-5 for a student that lacks 65 % or more of its base's body (all "
        "but the embeddings); less in proportion, down to a tenth, for one that lacks less: it has more to lose.",
    )
    decay: Literal["linear", "cosine"] = Field("linear", description="How the learning rate falls to 0.")
    warmup: Share = Field(0.1, description="Share of the run in which the learning rate rises.")
    still: Share = Field(
        0.02, description="Share of the run, before the warm-up, that fills the optimiser's moments and moves nothing."
    )
    optimiser: Literal["natural", "adamw"] = Field(
        "natural",
        description="adamw: every weight by a step of its own size. natural: a matrix's gradient is divided by the "
        "second moments of its inputs, so that it moves less where they are large. Adapters move by adamw.",
    )
    curvature: CurvatureSection = Field(default_factory=lambda: CurvatureSection.model_validate({}))
    weight_decay: float = Field(0.0, ge=0.0, le=1.0, description="AdamW weight decay.")
    beta2: float = Field(
        0.95, gt=0.0, lt=1.0, description="AdamW's second-moment decay; short runs want it below 0.99."
    )
    gradient_clip: float = Field(1.0, gt=0.0, description="Largest gradient norm.")
    precision: Literal["fastest", "bfloat16", "float16", "float32"] = Field(
        "fastest", description="Of the matrix products; fastest: what a probe of this machine says."
    )
    loader_workers: int = Field(0, ge=0, le=16, description="Processes that prepare batches; 0: the training itself.")
    batch_tokens: int = Field(1024, ge=32, description="Tokens a micro-batch, padding included.")
    batch_answers: int | None = Field(
        None, ge=1, description="Answers a micro-batch, whatever their length; absent: as batch_tokens allows."
    )
    accumulation: int = Field(1, ge=1, description="Micro-batches a step.")
    losses: LossesSection = Field(default_factory=lambda: LossesSection.model_validate({}))
    temperature: TemperatureSection = Field(default_factory=lambda: TemperatureSection.model_validate({}))
    tail: TailSection = Field(default_factory=lambda: TailSection.model_validate({}))
    hidden_pairs: tuple[HiddenPair, ...] = Field((), description="Layers matched by cosine.")
    attention_pairs: tuple[AttentionPair, ...] = Field((), description="Layers whose attention maps are matched.")
    consistency: ConsistencySection = Field(default_factory=lambda: ConsistencySection.model_validate({}))
    on_policy: OnPolicySection = Field(default_factory=lambda: OnPolicySection.model_validate({}))
    joint: JointSection = Field(default_factory=lambda: JointSection.model_validate({}))
    finish: FinishSection = Field(default_factory=lambda: FinishSection.model_validate({}))
    adapter: AdapterSection = Field(default_factory=lambda: AdapterSection.model_validate({}))
    checkpoint_seconds: float = Field(120.0, gt=0.0, description="Time between checkpoints.")
    chunk_rows: int = Field(128, ge=1, description="Answer positions whose logits exist at the same time.")

    def peak_rate(self, cut: float) -> float:
        """The learning rate asked for, or what suits a student that lacks a share `cut` of its base's body."""
        return self.learning_rate or PEAK_RATE * min(1.0, max(SLOWEST, cut / DEEP_CUT))

    @property
    def knows_curvature(self) -> bool:
        """The matrices move by their natural gradient: not those of adapters."""
        return self.optimiser == "natural" and self.trained in ("all", "feed-forward")

    @model_validator(mode="after")
    def _teaches_something(self) -> DistillSection:
        if not (self.losses.weights() or self.hidden_pairs or self.attention_pairs):
            raise ValueError("every loss has weight 0: give one under [distill.losses] a weight, or a hidden pair")
        return self

    @model_validator(mode="after")
    def _own_answers_teach(self) -> DistillSection:
        if self.on_policy.share and not set(self.losses.weights()) - {"cross_entropy"}:
            raise ValueError(
                f"distill.on_policy.share = {self.on_policy.share:g}: the student's own answers teach by a divergence "
                "alone: give one under [distill.losses] a weight, such as forward_kl = 1"
            )
        return self

    @model_validator(mode="after")
    def _the_rate_gets_to_fall(self) -> DistillSection:
        if self.still + self.warmup > 1:
            raise ValueError(
                f"still + warmup = {self.still + self.warmup:g}: together they are at most 1, the whole run"
            )
        return self

    @model_validator(mode="after")
    def _adapters_are_not_rounded(self) -> DistillSection:
        if self.finish.share and self.trained not in ("all", "feed-forward"):
            raise ValueError(f'finish.share needs trained = "all" or "feed-forward": {self.trained} rounds no weights')
        return self
