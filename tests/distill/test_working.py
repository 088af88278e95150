"""A body that works in bfloat16 is a model in bfloat16; its gradients arrive at the float32 weights."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedModel

from potstill.distill.trained import prepare_student
from potstill.distill.working import read_in
from potstill.models.anatomy import body
from potstill.recipe import validate_recipe

IDS = torch.randint(3, 60, (3, 20), generator=torch.Generator().manual_seed(0))


def learn(model: PreTrainedModel, states: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of a fixed direction at the states, by name."""
    direction = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    states.backward(direction.to(states.dtype))
    return {name: weight.grad for name, weight in body(model).named_parameters() if weight.grad is not None}


def test_it_is_a_model_loaded_in_bfloat16(tiny_model: PreTrainedModel) -> None:
    loaded = copy.deepcopy(tiny_model)
    for weight in loaded.parameters():  # `loaded.bfloat16()` would round the rotary frequencies too
        weight.data = weight.data.bfloat16()
    states = body(loaded)(input_ids=IDS, use_cache=False).last_hidden_state
    ours = read_in(torch.bfloat16, body(tiny_model), IDS).last_hidden_state
    assert torch.equal(ours, states)
    expected, found = learn(loaded, states), learn(tiny_model, ours)
    assert found.keys() == expected.keys() == dict(body(tiny_model).named_parameters()).keys()
    # Not equal: attention's are made of other products, the embedding's are added up in float32.
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert float((gradient - expected[name].float()).norm() / gradient.norm()) < 0.05
    assert all(weight.dtype == torch.float32 for weight in tiny_model.parameters())


def test_its_gradients_are_as_near_to_float32_as_those_of_autocast(tiny_model: PreTrainedModel) -> None:
    exact, cast = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    expected = learn(exact, read_in(torch.float32, body(exact), IDS).last_hidden_state)
    with torch.autocast("cpu", torch.bfloat16):
        states = body(cast)(input_ids=IDS, use_cache=False).last_hidden_state
    by_autocast = learn(cast, states)
    found = learn(tiny_model, read_in(torch.bfloat16, body(tiny_model), IDS).last_hidden_state)

    def error(gradients: dict[str, torch.Tensor]) -> float:
        flat, true = (torch.cat([one[name].flatten() for name in expected]) for one in (gradients, expected))
        return float((flat - true).norm() / true.norm())

    assert 0 < error(found) < 2 * error(by_autocast) < 0.1


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="this PyTorch has no grad_dtype")
def test_a_gradient_comes_in_the_format_that_its_weight_asks_for(tiny_model: PreTrainedModel) -> None:
    other, name = copy.deepcopy(tiny_model), "layers.0.mlp.up_proj.weight"
    body(other).get_parameter(name).grad_dtype = torch.bfloat16
    expected, found = (
        learn(one, read_in(torch.bfloat16, body(one), IDS).last_hidden_state) for one in (tiny_model, other)
    )
    assert found[name].dtype == torch.bfloat16
    assert all(torch.equal(found[name].float(), expected[name]) for name in expected)


@pytest.mark.parametrize("trained", ["feed-forward", "lora", "nf4-lora"])
def test_only_what_moves_learns(tiny_model: PreTrainedModel, trained: str) -> None:
    for library in {"lora": ["peft"], "nf4-lora": ["peft", "bitsandbytes"]}.get(trained, []):
        pytest.importorskip(library)
    prepare_student(tiny_model, validate_recipe({"name": "t", "distill": {"trained": trained}}, "test").distill)
    found = learn(tiny_model, read_in(torch.bfloat16, body(tiny_model), IDS).last_hidden_state)
    assert found.keys() == {name for name, weight in body(tiny_model).named_parameters() if weight.requires_grad}
    assert all(gradient.isfinite().all() for gradient in found.values())
