"""The second moments of what matrices read: measured as defined, whatever the batches."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from potstill.models.anatomy import body, decoder_layers
from potstill.models.architecture import HEAD
from potstill.models.moments import ByInputs, second_moments

SEQUENCES = [np.random.default_rng(length).integers(0, 600, length) for length in (9, 5, 17, 3)]
DOWN = "model.layers.1.mlp.down_proj.weight"
QUERY, KEY = ("model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.weight")


def measured(model: PreTrainedModel, batch_tokens: int = 40, only: set[str] | None = None) -> ByInputs:
    matrices = {name for name, weight in model.named_parameters() if weight.dim() == 2} | {HEAD}
    told: list[float] = []

    def read(ids: torch.Tensor) -> torch.Tensor:
        return body(model)(input_ids=ids, use_cache=False).last_hidden_state

    found = second_moments(model, SEQUENCES, batch_tokens, only or matrices, read, told.append)
    assert abs(sum(told) - 1) < 1e-9
    return found


def test_they_are_the_mean_over_all_but_first_positions(tiny_model: PreTrainedModel) -> None:
    """Against one sequence at a time, the inputs worked out from what enters the layer's feed-forward part."""
    layer, seen, last = decoder_layers(tiny_model)[1], [], []
    layer.post_attention_layernorm.register_forward_hook(lambda _, __, output: seen.append(output[0, 1:]))
    with torch.inference_mode():
        for ids in SEQUENCES:
            last.append(body(tiny_model)(input_ids=torch.from_numpy(ids)[None]).last_hidden_state[0, 1:])
        states, ends = torch.cat(seen), torch.cat(last)
        inputs = layer.mlp.act_fn(layer.mlp.gate_proj(states)) * layer.mlp.up_proj(states)
    found = measured(tiny_model)
    torch.testing.assert_close(found[DOWN], inputs.T @ inputs / len(inputs), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[HEAD], ends.T @ ends / len(ends), rtol=1e-4, atol=1e-6)


def test_padding_and_batches_do_not_matter(tiny_model: PreTrainedModel) -> None:
    alone, together = measured(tiny_model, 1), measured(tiny_model, 1000)
    assert alone.keys() == together.keys()
    for name, moments in alone.items():
        torch.testing.assert_close(moments, together[name], rtol=1e-4, atol=1e-6)


def test_what_reads_the_same_shares_them(tiny_model: PreTrainedModel) -> None:
    found, layers = measured(tiny_model), len(decoder_layers(tiny_model))
    assert found[QUERY] is found[KEY]
    assert (len(found), len(found.known)) == (7 * layers + 1, 4 * layers + 1)


def test_only_what_is_wanted_is_measured(tiny_model: PreTrainedModel) -> None:
    assert set(measured(tiny_model, only={KEY, DOWN})) == {KEY, DOWN}
