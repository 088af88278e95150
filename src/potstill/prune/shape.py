"""The student's shape, and how many parameters it has.

In:  the configuration of the model it is cut from (the base), what the recipe asks for.
Out: a `StudentSpec`; the student's configuration.
Does not know: weights, calibration, training.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from potstill.problem import Problem
from potstill.prune.heads import HeadShape, choose_heads, cut_rotary
from potstill.recipe.student import PruneSection
from potstill.vocab.map import VocabMap

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ROW = 32
"""Rows of a GGUF tensor must divide by this to be quantised at all; K-quants want 256."""


@dataclass(frozen=True)
class StudentSpec:
    """What is cut: layers × feed-forward neurons, hidden width and heads, over V tokens.

    Args:
        head: numbers in one attention head.
    """

    layers: int
    ffn: int
    hidden: int
    vocabulary: int
    tied: bool
    heads: int
    kv_heads: int
    head: int

    def describe(self) -> str:
        """`24 × 1216, hidden 896, 14 heads of 64 over 2, vocabulary 32768`."""
        heads = f"{self.heads} heads of {self.head}"
        over = "" if self.kv_heads == self.heads else f" over {self.kv_heads}"
        return f"{self.layers} × {self.ffn}, hidden {self.hidden}, {heads}{over}, vocabulary {self.vocabulary}"


def count_parameters(config: PreTrainedConfig, spec: StudentSpec) -> int:
    """Parameters of a Qwen2, Qwen3, Llama or Phi-3 model of that shape."""
    queries, groups = spec.heads * spec.head, spec.kv_heads * spec.head
    attention = 2 * spec.hidden * (queries + groups)
    feed_forward = 3 * spec.hidden * spec.ffn
    if config.model_type == "qwen2":
        attention += queries + 2 * groups
    if config.model_type == "qwen3":
        attention += 2 * spec.head
    if config.model_type in ("llama", "qwen3") and getattr(config, "attention_bias", False):
        attention += queries + 2 * groups + spec.hidden
    if config.model_type == "llama" and getattr(config, "mlp_bias", False):
        feed_forward += 2 * spec.ffn + spec.hidden
    embeddings = spec.vocabulary * spec.hidden * (1 if spec.tied else 2)
    return int(embeddings + spec.layers * (attention + feed_forward + 2 * spec.hidden) + spec.hidden)


def cut_share(config: PreTrainedConfig, spec: StudentSpec) -> float:
    """Share of the base's body (all but the embeddings) that a student of that shape lacks."""

    def body(spec: StudentSpec) -> int:
        return count_parameters(config, spec) - count_parameters(config, replace(spec, layers=0))

    whole = choose_shape(config, spec.vocabulary, PruneSection.model_validate({"layers": None, "parameters": None}))
    return 1 - body(spec) / body(whole)


def choose_shape(config: PreTrainedConfig, vocabulary: int, section: PruneSection) -> StudentSpec:
    """The shape a recipe asks for; a missing `ffn` is the multiple of 32 that comes closest to `parameters`.

    Raises: Problem where the shape is larger than the base, or the target cannot be reached.
    """
    layers, hidden = section.layers or config.num_hidden_layers, section.hidden or config.hidden_size
    _require("layers", layers, config.num_hidden_layers)
    _require("hidden", hidden, config.hidden_size)
    heads = choose_heads(config, hidden, section.heads, section.kv_heads)
    tied = bool(config.tie_word_embeddings)
    spec = StudentSpec(layers, ROW, hidden, vocabulary, tied, heads.heads, heads.groups, heads.width)
    if section.ffn is not None:
        _require("ffn", section.ffn, config.intermediate_size)
        return replace(spec, ffn=section.ffn)
    if section.parameters is None:
        return replace(spec, ffn=config.intermediate_size)
    return replace(spec, ffn=_reach(config, spec, section.parameters))


def _require(name: str, asked: int, available: int) -> None:
    if asked > available:
        raise Problem(f"prune.{name} = {asked}, there are {available} to cut from", f"Ask for {available} or less.")


def _reach(config: PreTrainedConfig, spec: StudentSpec, parameters: int) -> int:
    """Feed-forward neurons that bring `spec` closest to so many parameters."""
    smallest, largest = (count_parameters(config, replace(spec, ffn=ffn)) for ffn in (ROW, config.intermediate_size))
    step = count_parameters(config, replace(spec, ffn=2 * ROW)) - smallest
    ffn = ROW + ROW * round((parameters - smallest) / step)
    if not ROW <= ffn <= config.intermediate_size:
        raise Problem(
            f"prune.parameters = {parameters:,} is out of reach with {spec.layers} layers, hidden {spec.hidden} and "
            f"{spec.vocabulary:,} tokens",
            f"Between {smallest:,} and {largest:,} are possible; change that, prune.layers, prune.hidden or the "
            "vocabulary.",
        )
    return ffn


def student_config(config: PreTrainedConfig, spec: StudentSpec, vocabulary: VocabMap | None) -> PreTrainedConfig:
    """The base's configuration with the student's shape and token ids; without a map, ids are the base's."""
    student = copy.deepcopy(config)
    cut_rotary(student, HeadShape(spec.heads, spec.kv_heads, spec.head))
    student.num_hidden_layers, student.intermediate_size = spec.layers, spec.ffn
    student.hidden_size, student.num_attention_heads = spec.hidden, spec.heads
    student.num_key_value_heads = spec.kv_heads
    if getattr(student, "head_dim", None):
        student.head_dim = spec.head
    student.vocab_size, student.tie_word_embeddings = spec.vocabulary, spec.tied
    if getattr(student, "layer_types", None):
        student.layer_types = student.layer_types[: spec.layers]
    if vocabulary is not None:
        _translate_special(student, vocabulary)
    return student


def _translate_special(config: PreTrainedConfig, vocabulary: VocabMap) -> None:
    places = {int(teacher): index for index, teacher in enumerate(vocabulary.teacher_ids)}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(config, name, None)
        if isinstance(token, list):
            setattr(config, name, [places[one] for one in token if one in places])
        elif token is not None:
            setattr(config, name, places.get(token))
