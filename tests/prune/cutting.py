"""Cutting a tiny model outside of a run.

In:  a base, what a recipe would ask for.
Out: a student, its healed weights in place.
Does not know: any single test.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from potstill.models.anatomy import body, decoder_layers, head_weight
from potstill.progress import Silent
from potstill.prune.basis import choose_basis, measure_stream
from potstill.prune.shape import choose_shape, count_parameters
from potstill.prune.student import cut_and_heal, empty_student
from potstill.prune.walk import start_walk
from potstill.recipe import PruneSection


def calibration(vocabulary: int, count: int = 12, length: int = 24) -> tuple[list, list, list]:
    ids = [torch.randint(0, vocabulary, (2, length), generator=torch.Generator().manual_seed(i)) for i in range(count)]
    return ids, ids, [torch.tensor([length, length - 5]) for _ in ids]


def cut_student(base: PreTrainedModel, ridge: float | None = None, **wanted: object) -> PreTrainedModel:
    section = PruneSection.model_validate({"layers": None, "parameters": None, **wanted})
    spec = choose_shape(base.config, base.config.vocab_size, section)
    batches = calibration(base.config.vocab_size)
    with Silent().task("", 1, "") as task:
        moment = measure_stream(base, start_walk(base, *batches[1:]), task)
        basis = choose_basis(moment, spec.hidden, rotate=section.narrow == "rotate")
        student = empty_student(base, spec, None, basis)
        healed = cut_and_heal(base, student, range(spec.layers), batches, basis, ridge, task)
    student.load_state_dict(healed, strict=False)
    assert sum(parameter.numel() for parameter in student.parameters()) == count_parameters(base.config, spec)
    return student


def difference(first: PreTrainedModel, second: PreTrainedModel) -> float:
    """Largest difference of logits on text that no calibration saw."""
    ids = torch.randint(0, first.config.vocab_size, (3, 24), generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        expected = first(ids).logits
        assert expected.std() > 0.5  # far from uniform, or the comparison would mean nothing
        return float((expected - second(ids).logits).abs().max())


def confine_stream(model: PreTrainedModel, projection: torch.Tensor) -> None:
    """Make every writer stay within the subspace that `projection` [D, D] projects on."""
    with torch.no_grad():
        embeddings = body(model).embed_tokens.weight
        embeddings.copy_(embeddings @ projection)
        for layer in decoder_layers(model):
            for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
                module.weight.copy_(projection @ module.weight)
        assert head_weight(model) is not None
