"""Tables of the teacher's part: who teaches, what is asked, how it is answered, which tokens and signals are kept.

In:  nothing.
Out: sections with their defaults.
Does not know: the student.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from potstill.recipe.section import Section, Share
from potstill.recipe.synthetic import SyntheticSection


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
    limit: int | None = Field(
        None,
        ge=1,
        description="Keep at most this many training prompts, people's before the teacher's own; all if absent.",
    )
    synthetic: SyntheticSection = Field(default_factory=lambda: SyntheticSection.model_validate({}))


class AnswersSection(Section):
    """How the teacher answers."""

    fresh: bool = Field(False, description="Write the golden answers anew even where the shipped ones fit.")
    temperature: float = Field(0.7, ge=0.0, le=2.0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(0.8, gt=0.0, le=1.0, description="Nucleus sampling: smallest set with this much probability.")
    top_k: int = Field(20, ge=1, description="Sample from this many tokens at most.")
    repeat_penalty: float = Field(1.1, ge=1.0, le=2.0, description="Divides the logits of repeated tokens.")
    max_tokens: int = Field(320, ge=8, le=4096, description="Longest answer, in teacher tokens.")
    context: int = Field(
        768,
        ge=128,
        le=32768,
        description="Prompt and answer together, in teacher tokens. Written side by side, an answer may be max_tokens "
        "long however long its prompt is.",
    )
    writer: Literal["fastest", "together", "slots"] = Field(
        "fastest",
        description="together: up to 256 answers side by side in PyTorch, several times as fast. slots: llama.cpp. "
        "fastest: together, unless there are only a few.",
    )
    server: str | None = Field(
        None,
        description="Server that speaks OpenAI's API and writes in the teacher's place, such as http://host:8000/v1; "
        "its key is taken from POTSTILL_SERVER_KEY.",
    )
    slots: int = Field(
        8,
        ge=1,
        le=64,
        description="Answers that llama.cpp writes at the same time; with more than 1 a text may come out otherwise "
        "the next time.",
    )


class BindingSection(Section):
    """How the tokens of a student with a tokenizer of its own are bound to the teacher's: exact bytes come first."""

    neighbours: bool = Field(True, description="Bind what has no equal by nearest neighbour among word vectors.")
    threshold: float = Field(0.6, gt=0.0, le=1.0, description="Least cosine of two bound neighbours.")
    dimensions: int = Field(64, ge=8, le=512, description="Width of the word vectors.")
    epochs: int = Field(5, ge=1, description="Passes over the run's text when the word vectors are trained.")
    unbound: Literal["rest", "unk", "first"] = Field(
        "rest",
        description="Where the teacher's probability of unbound tokens goes: rest: a bucket of its own; unk: <unk>; "
        "first: the student token that their bytes begin with.",
    )
    sorted_weight: float = Field(
        0.0, ge=0.0, description="Weight of the distance between the sorted probabilities of unbound tokens."
    )


class VocabSection(Section):
    """Which of the teacher's tokens the student keeps."""

    size: int = Field(32768, ge=512, multiple_of=64, description="Tokens kept, special ones included.")
    texts: tuple[Path, ...] = Field((), description="Text files whose tokens should be kept too.")
    expectation_tokens: int = Field(
        8192, ge=0, description="Training answer tokens whose distributions say which unseen tokens the teacher likes."
    )
    coverage_tokens: int = Field(2048, ge=0, description="Held-out answer tokens that measure the kept probability.")
    binding: BindingSection = Field(default_factory=lambda: BindingSection.model_validate({}))


class SignalsSection(Section):
    """How the teacher's thoughts are kept."""

    format: Literal["hidden", "topk"] = Field(
        "hidden",
        description="hidden: last hidden state, all logits exact. topk: K ids with an exact rest. "
        "Held-out answers are always kept with all logits: a student is measured against them.",
    )
    precision: Literal["int8", "float16"] = Field("int8", description="Storage of hidden states.")
    group: int = Field(128, ge=8, description="Values that share one int8 scale; must divide the teacher's width.")
    k: int = Field(64, ge=1, description="Tokens kept a position in the topk format.")
    batch_tokens: int = Field(2048, ge=64, description="Tokens the teacher reads at once.")
    shard_answers: int = Field(40, ge=1, description="Answers in a shard: the unit that survives a kill.")
    context: int = Field(
        768, ge=64, description="Longest prompt + answer read, in student tokens; longer ones are cut."
    )
