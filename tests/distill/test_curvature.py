"""What the layers read: its inverse undoes its spread, padding and batches do not matter, damage is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from potstill.distill.curvature import Curvature, measure_curvature
from potstill.models.anatomy import body, decoder_layers
from potstill.models.inputs import listening
from potstill.problem import Problem
from potstill.progress import Silent

RANDOM = np.random.default_rng(0)
SEQUENCES = [RANDOM.integers(0, 64, length) for length in (9, 31, 2, 17, 40, 12)]
DOWN = "model.layers.0.mlp.down_proj.weight"
QUERY, KEY = ("model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.weight")


def measured(model: PreTrainedModel, batch_tokens: int = 64, damping: float = 0.01) -> Curvature:
    with Silent().task("", 1, "") as task:
        return measure_curvature(model, SEQUENCES, batch_tokens, damping, torch.float32, task)


def inputs_of(model: PreTrainedModel, name: str) -> Tensor:
    """What a matrix reads, sequence by sequence, without first positions."""
    seen: list[Tensor] = []
    with torch.no_grad(), listening(model, lambda who, what: seen.append(what[0, 1:]) if who == name else None):
        for ids in SEQUENCES:
            body(model)(input_ids=torch.from_numpy(ids)[None], use_cache=False)
    return torch.cat(seen)


@pytest.mark.parametrize("name", [DOWN, QUERY])
def test_the_inverse_undoes_the_spread(tiny_model: PreTrainedModel, name: str) -> None:
    inputs = inputs_of(tiny_model, name).double()
    moments = inputs.T @ inputs
    moments /= moments.diagonal().mean()
    inverse = measured(tiny_model, damping=0.1)[name].double()
    undone = inverse @ (moments + 0.1 * torch.eye(len(moments)))
    assert torch.allclose(undone, torch.eye(len(moments), dtype=torch.float64), atol=1e-3)


def test_batches_and_padding_do_not_matter(tiny_model: PreTrainedModel) -> None:
    alone, together = measured(tiny_model, 1), measured(tiny_model, 1000)
    assert alone.keys() == together.keys()
    assert all(torch.allclose(alone[name], together[name], rtol=1e-2, atol=1e-2) for name in alone)


def test_what_reads_the_same_shares_an_inverse(tiny_model: PreTrainedModel) -> None:
    found, layers = measured(tiny_model), len(decoder_layers(tiny_model))
    assert found[QUERY] is found[KEY]
    assert (len(found), len(found.known)) == (7 * layers, 4 * layers)
    assert not any("embed" in name or "norm" in name or "lm_head" in name for name in found)


def test_what_rests_has_none(tiny_model: PreTrainedModel) -> None:
    tiny_model.requires_grad_(False)
    decoder_layers(tiny_model)[0].mlp.requires_grad_(True)
    assert {name.split(".")[4] for name in measured(tiny_model)} == {"gate_proj", "up_proj", "down_proj"}


def test_it_comes_back_from_its_file(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    found, path = measured(tiny_model), tmp_path / "curvature.safetensors"
    found.save(path)
    back = Curvature.load(path)
    assert back.first == found.first and all(torch.equal(back[name], found[name]) for name in found)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Problem, match=r"curvature.safetensors: damaged"):
        Curvature.load(path)
