"""The cut, layer by layer: choose neurons, cut, heal, walk on.

In:  a teacher, the layers to keep, a shape, calibration batches.
Out: a student whose weights are cut, and the healed down-projections beside it.
Does not know: recipes, runs, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from potstill.models.anatomy import Layer, body, decoder_layers, head_weight
from potstill.progress import Task
from potstill.prune.choose import cut_feed_forward, keep_neurons, score_neurons
from potstill.prune.heal import RidgeRegression
from potstill.prune.shape import StudentSpec, student_config
from potstill.prune.walk import Batch, inputs_of, run_layer, start_walk
from potstill.vocab.map import VocabMap


def empty_student(teacher: PreTrainedModel, spec: StudentSpec, vocabulary: VocabMap) -> PreTrainedModel:
    """A student with the teacher's embeddings, norms and head over the kept tokens; its layers are still to come."""
    config = student_config(teacher.config, spec, vocabulary)
    student: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=teacher.dtype)
    student.eval()
    kept = torch.from_numpy(vocabulary.teacher_ids)
    with torch.no_grad():
        body(student).embed_tokens.weight.copy_(body(teacher).embed_tokens.weight[kept])
        head_weight(student).copy_(head_weight(teacher)[kept])
    body(student).norm.load_state_dict(body(teacher).norm.state_dict())
    return student


@torch.no_grad()
def cut_and_heal(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    kept_layers: Sequence[int],
    batches: tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]],
    ridge: float | None,
    task: Task,
) -> dict[str, Tensor]:
    """Fill the student's layers from the teacher's; returns the healed down-projections by parameter name.

    Student layer i stands for the teacher's stream after the last layer before the next kept one. The student's own
    stream, healed so far, is what the next layer is fitted on.

    Args:
        kept_layers: teacher layers, ascending, as many as the student has.
        batches: student ids [B, T], teacher ids [B, T], lengths [B], batch by batch.
        ridge: strength of the regression; None cuts without healing (and returns nothing).
        task: advances by the layers of the teacher.
    """
    student_ids, teacher_ids, lengths = batches
    theirs, ours = start_walk(teacher, teacher_ids, lengths), start_walk(student, student_ids, lengths)
    healed: dict[str, Tensor] = {}
    source, target = decoder_layers(teacher), decoder_layers(student)
    ends = [*kept_layers[1:], len(source)]
    for place, (first, end) in enumerate(zip(kept_layers, ends, strict=True)):
        layer = target[place]
        squares = _advance(source[first], theirs)
        _cut_layer(source[first], layer, squares, sum(int(b.counted.sum()) for b in theirs))
        for skipped in range(first + 1, end):
            _advance(source[skipped], theirs)
        if ridge is not None:
            healed[f"model.layers.{place}.mlp.down_proj.weight"] = _heal_layer(layer, ours, theirs, ridge)
        task.advance(end - first)
    return healed


def _advance(layer: Layer, batches: Sequence[Batch]) -> Tensor:
    """Walk on by one teacher layer; returns [F] its neurons' summed squared activations."""
    squares = torch.zeros(layer.mlp.down_proj.in_features)
    with inputs_of(layer.mlp.down_proj) as caught:
        for batch in batches:
            batch.states = run_layer(layer, batch)
            squares += caught[0][batch.counted].float().square().sum(dim=0)
    return squares


def _cut_layer(source: Layer, target: Layer, squares: Tensor, count: int) -> None:
    """Copy a layer, keeping the neurons that write most; a layer of the full width is copied as it is."""
    state = {name: value for name, value in source.state_dict().items() if not name.startswith("mlp.")}
    scores = score_neurons(squares, count, source.mlp.down_proj.weight)
    neurons = keep_neurons(scores, target.mlp.down_proj.in_features)
    cut = cut_feed_forward(source.mlp, neurons)
    target.load_state_dict(state | {f"mlp.{name}": value for name, value in cut.items()})


def _heal_layer(layer: Layer, ours: Sequence[Batch], theirs: Sequence[Batch], ridge: float) -> Tensor:
    """Fit the down-projection, walk the student on with it; returns it, [D, F] float32."""
    down: Any = layer.mlp.down_proj
    regression = RidgeRegression(down.weight, ridge)
    seen: list[tuple[Tensor, Tensor]] = []
    with inputs_of(layer.post_attention_layernorm, down) as caught:
        for batch, goal in zip(ours, theirs, strict=True):
            run_layer(layer, batch)
            middle, activations = caught
            seen.append((middle, activations))
            regression.add(activations[batch.counted], (goal.states - middle)[batch.counted])
    weight = regression.solve()
    for batch, (middle, activations) in zip(ours, seen, strict=True):
        batch.states = middle + nn.functional.linear(activations, weight.to(activations.dtype))
    return weight
