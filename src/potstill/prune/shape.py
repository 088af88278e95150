"""The student's shape, and how many parameters it has.

In:  the teacher's configuration, what the recipe asks for.
Out: a `StudentSpec`; the student's configuration.
Does not know: weights, calibration, training.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from potstill.problem import Problem
from potstill.vocab.map import VocabMap

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ROW = 32
"""Rows of a GGUF tensor must divide by this to be quantised at all; K-quants want 256."""


@dataclass(frozen=True)
class StudentSpec:
    """What is cut: layers × feed-forward neurons, over V kept tokens; the hidden width stays the teacher's."""

    layers: int
    ffn: int
    hidden: int
    vocabulary: int
    tied: bool

    def describe(self) -> str:
        """`24 × 1216, hidden 896, vocabulary 32768`."""
        return f"{self.layers} × {self.ffn}, hidden {self.hidden}, vocabulary {self.vocabulary}"


def count_parameters(config: PreTrainedConfig, spec: StudentSpec) -> int:
    """Parameters of a Qwen2-, Qwen3-, Llama- or Phi-3-like model of that shape."""
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    head = getattr(config, "head_dim", None) or spec.hidden // heads
    attention = 2 * spec.hidden * heads * head + 2 * spec.hidden * groups * head
    if config.model_type == "qwen2":
        attention += heads * head + 2 * groups * head
    if config.model_type == "qwen3":
        attention += 2 * head
    layer = attention + 3 * spec.hidden * spec.ffn + 2 * spec.hidden
    embeddings = spec.vocabulary * spec.hidden * (1 if spec.tied else 2)
    return int(embeddings + spec.layers * layer + spec.hidden)


def choose_shape(
    config: PreTrainedConfig, vocabulary: int, layers: int | None, ffn: int | None, parameters: int | None
) -> StudentSpec:
    """The shape a recipe asks for; a missing `ffn` is the multiple of 32 that comes closest to `parameters`.

    Raises: Problem where the shape is larger than the teacher, or the target cannot be reached.
    """
    layers = layers or config.num_hidden_layers
    if layers > config.num_hidden_layers:
        raise Problem(f"prune.layers = {layers}, the teacher has {config.num_hidden_layers}", "Ask for fewer layers.")

    def spec(width: int) -> StudentSpec:
        return StudentSpec(layers, width, config.hidden_size, vocabulary, bool(config.tie_word_embeddings))

    if ffn is None and parameters is None:
        ffn = config.intermediate_size
    if ffn is None:
        assert parameters is not None
        step = count_parameters(config, spec(ROW)) - count_parameters(config, spec(0))
        ffn = ROW * round((parameters - count_parameters(config, spec(0))) / step)
        if not ROW <= ffn <= config.intermediate_size:
            smallest, largest = (count_parameters(config, spec(width)) for width in (ROW, config.intermediate_size))
            raise Problem(
                f"prune.parameters = {parameters:,} is out of reach with {layers} layers and {vocabulary:,} tokens",
                f"Between {smallest:,} and {largest:,} are possible; change that, prune.layers or vocab.size.",
            )
    if ffn > config.intermediate_size:
        raise Problem(f"prune.ffn = {ffn}, the teacher has {config.intermediate_size}", "Ask for fewer neurons.")
    return spec(ffn)


def student_config(config: PreTrainedConfig, spec: StudentSpec, vocabulary: VocabMap) -> PreTrainedConfig:
    """The teacher's configuration with the student's shape and token ids."""
    student = copy.deepcopy(config)
    student.num_hidden_layers, student.intermediate_size = spec.layers, spec.ffn
    student.vocab_size, student.tie_word_embeddings = spec.vocabulary, spec.tied
    if getattr(student, "layer_types", None):
        student.layer_types = student.layer_types[: spec.layers]
    places = {int(teacher): index for index, teacher in enumerate(vocabulary.teacher_ids)}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(student, name, None)
        if isinstance(token, list):
            setattr(student, name, [places[one] for one in token if one in places])
        elif token is not None:
            setattr(student, name, places.get(token))
    return student
