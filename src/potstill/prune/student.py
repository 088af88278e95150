"""The cut, layer by layer: choose heads and neurons, cut, heal, walk on.

In:  a base, the layers to keep, a shape, a basis, calibration batches.
Out: a student whose weights are cut, and the healed down-projections beside it.
Does not know: recipes, runs, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from potstill.models.anatomy import Layer, body, decoder_layers, head_weight
from potstill.progress import Task
from potstill.prune.basis import Basis, rms_ratio
from potstill.prune.choose import keep_heads, keep_neurons, score_neurons
from potstill.prune.cut import ATTENTION_NORM, FEED_FORWARD_NORM, Kept, cut_layer
from potstill.prune.heads import HeadShape, kept_numbers, shape_of
from potstill.prune.heal import RidgeRegression
from potstill.prune.shape import StudentSpec, student_config
from potstill.prune.walk import Batch, inputs_of, run_layer, start_walk
from potstill.vocab.map import VocabMap


def empty_student(
    base: PreTrainedModel, spec: StudentSpec, vocabulary: VocabMap | None, basis: Basis
) -> PreTrainedModel:
    """A student with the base's embeddings and head over the kept tokens; its layers and last norm are still to come.

    Args:
        vocabulary: the base's rows that are kept; None: all.
    """
    config = student_config(base.config, spec, vocabulary)
    student: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=base.dtype)
    student.eval()
    kept = torch.arange(spec.vocabulary) if vocabulary is None else torch.from_numpy(vocabulary.teacher_ids)
    with torch.no_grad():
        if not spec.tied:
            head_weight(student).copy_(basis.reader(head_weight(base)[kept], body(base).norm.weight))
        body(student).embed_tokens.weight.copy_(basis.narrow(body(base).embed_tokens.weight[kept]))
    return student


@torch.no_grad()
def cut_and_heal(
    base: PreTrainedModel,
    student: PreTrainedModel,
    kept_layers: Sequence[int],
    batches: tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]],
    basis: Basis,
    ridge: float | None,
    task: Task,
) -> dict[str, Tensor]:
    """Fill the student's layers from the base's; returns the healed down-projections by parameter name.

    Student layer i stands for the base's stream, as far as the basis holds it, after the last layer before the next
    kept one. The student's own stream, healed so far, is what the next layer is fitted on.

    Args:
        kept_layers: the base's layers, ascending, as many as the student has.
        batches: student ids [B, T], base ids [B, T], lengths [B], batch by batch.
        ridge: strength of the regression; None cuts without healing (and returns nothing).
        task: advances by the layers of the base.
    """
    student_ids, base_ids, lengths = batches
    theirs, ours = start_walk(base, base_ids, lengths), start_walk(student, student_ids, lengths)
    healed: dict[str, Tensor] = {}
    source, target = decoder_layers(base), decoder_layers(student)
    ends = [*kept_layers[1:], len(source)]
    for place, (first, end) in enumerate(zip(kept_layers, ends, strict=True)):
        tally = _advance(source[first], theirs, basis)
        kept = _choose(source[first], tally, shape_of(base.config), student)
        target[place].load_state_dict(cut_layer(source[first], kept, shape_of(base.config), basis))
        for skipped in range(first + 1, end):
            _advance(source[skipped], theirs, basis)
        if end == len(source):
            _cut_last_norm(base, student, theirs, basis, ridge is not None)
        if ridge is not None:
            goals = [_goal(base, student, batch.states, basis, end == len(source)) for batch in theirs]
            healed[f"model.layers.{place}.mlp.down_proj.weight"] = _heal_layer(target[place], ours, goals, ridge)
        task.advance(end - first)
    return healed


@dataclass(frozen=True)
class _Tally:
    """What a layer did with the calibration set: summed squares of neurons [F] and of head outputs [H·W], and the
    RMS ratios of the stream before its norms."""

    neurons: Tensor
    heads: Tensor
    count: int
    ratios: dict[str, float]


def _advance(layer: Layer, batches: Sequence[Batch], basis: Basis) -> _Tally:
    """Walk on by one layer of the base."""
    down, out = layer.mlp.down_proj, layer.self_attn.o_proj
    norms = {ATTENTION_NORM: layer.input_layernorm, FEED_FORWARD_NORM: layer.post_attention_layernorm}
    squares = [torch.zeros(down.in_features), torch.zeros(out.in_features)]
    sums, count = dict.fromkeys(norms, 0.0), 0
    with inputs_of(down, out, *norms.values()) as caught:
        for batch in batches:
            batch.states = run_layer(layer, batch)
            rows = int(batch.counted.sum())
            for total, seen in zip(squares, caught[:2], strict=True):
                total += seen[batch.counted].float().square().sum(dim=0)
            for name, seen in zip(norms, caught[2:], strict=True):
                sums[name] += basis.rms_ratio(seen[batch.counted]) * rows
            count += rows
    return _Tally(squares[0], squares[1], count, {name: total / count for name, total in sums.items()})


def _choose(layer: Layer, tally: _Tally, base: HeadShape, student: PreTrainedModel) -> Kept:
    """The heads, numbers and neurons that write most into the stream."""
    wanted, config = shape_of(student.config), student.config
    neurons = keep_neurons(
        score_neurons(tally.neurons, tally.count, layer.mlp.down_proj.weight), config.intermediate_size
    )
    columns = score_neurons(tally.heads, tally.count, layer.self_attn.o_proj.weight)
    choice = keep_heads(columns, base, wanted)
    partial = float(config.rope_parameters.get("partial_rotary_factor", 1.0))
    numbers = torch.tensor(kept_numbers(base.width, wanted.width, partial))
    values = choice.values.repeat_interleave(wanted.heads // wanted.groups, dim=0)
    return Kept(
        neurons=neurons,
        queries=(choice.heads[:, None] * base.width + numbers).flatten(),
        keys=(choice.groups[:, None] * base.width + numbers).flatten(),
        values=(choice.groups[:, None] * base.width + choice.values).flatten(),
        columns=(choice.heads[:, None] * base.width + values).flatten(),
        query_scale=(wanted.width / base.width) ** 0.5,
        ratios=tally.ratios,
    )


def _cut_last_norm(
    base: PreTrainedModel, student: PreTrainedModel, theirs: Sequence[Batch], basis: Basis, healed: bool
) -> None:
    """The norm divides by the RMS of what it is given: narrowed states, or what the last layer is healed to give."""
    rows = torch.cat([batch.states[batch.counted] for batch in theirs[:4]])
    given = _goal(base, student, rows, basis, last=True) if healed else basis.narrow(rows)
    ratio, weight = rms_ratio(rows, given), body(base).norm.weight
    tied = student.config.tie_word_embeddings
    body(student).norm.weight.copy_(basis.tied_norm(weight, ratio) if tied else basis.norm(weight, ratio))


def _goal(base: PreTrainedModel, student: PreTrainedModel, states: Tensor, basis: Basis, last: bool) -> Tensor:
    """[B, T, d] what the student's stream should be where the base's is `states`.

    Before a rotated head that is tied the stream itself makes up for what `Basis.tied_norm` cannot say.
    """
    if basis.kept is not None or not (last and student.config.tie_word_embeddings):
        return basis.narrow(states)
    weight = body(base).norm.weight
    return basis.narrow(states * weight) / basis.tied_norm(weight, 1.0).to(states.dtype)


def _heal_layer(layer: Layer, ours: Sequence[Batch], goals: Sequence[Tensor], ridge: float) -> Tensor:
    """Fit the down-projection, walk the student on with it; returns it, [d, F] float32."""
    down: Any = layer.mlp.down_proj
    offset = 0 if down.bias is None else down.bias
    regression = RidgeRegression(down.weight, ridge)
    seen: list[tuple[Tensor, Tensor]] = []
    with inputs_of(layer.post_attention_layernorm, down) as caught:
        for batch, goal in zip(ours, goals, strict=True):
            run_layer(layer, batch)
            middle, activations = caught
            seen.append((middle, activations))
            regression.add(activations[batch.counted], (goal - middle - offset)[batch.counted])
    weight = regression.solve()
    for batch, (middle, activations) in zip(ours, seen, strict=True):
        batch.states = middle + nn.functional.linear(activations, weight.to(activations.dtype)) + offset
    return weight
