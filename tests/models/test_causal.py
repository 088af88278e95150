"""Attention made of plain products is attention, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from potstill.models import causal
from potstill.models.causal import NAME, causal_attention, causal_products


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    tokens = query.shape[2]
    scores = (query @ key.transpose(2, 3) * scale).masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf)
    return scores.softmax(-1) @ value


def sides(tokens: int, heads: int, groups: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, tokens, many, 8, dtype=torch.float64, generator=random).transpose(1, 2).requires_grad_()
        for many in (heads, groups, groups)
    ]


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("queries", [1, 3, 7, 256])  # blocks of one query, uneven ones, exactly one, one with room
def test_output_and_gradients_are_those_of_the_formula(
    monkeypatch: pytest.MonkeyPatch, heads: int, groups: int, queries: int
) -> None:
    monkeypatch.setattr(causal, "QUERIES", queries)
    inputs = sides(7, heads, groups)
    found, expected = causal_attention(*inputs, 0.3), plain(*inputs, 0.3)
    torch.testing.assert_close(found, expected)
    direction = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_in_bfloat16_it_is_as_exact_as_the_fused_kernel() -> None:
    exact = sides(40, 6, 2)
    direction = torch.randn(2, 6, 40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    true = torch.autograd.grad(plain(*exact, 0.3), exact, direction)

    def error(attend: object) -> float:
        inputs = [one.detach().bfloat16().requires_grad_() for one in exact]
        found = torch.autograd.grad(attend(*inputs), inputs, direction.bfloat16())
        pairs = zip(found, true, strict=True)
        return sum(float((ours.double() - theirs).norm() / theirs.norm()) for ours, theirs in pairs)

    fused = error(
        lambda *inputs: functional.scaled_dot_product_attention(*inputs, is_causal=True, scale=0.3, enable_gqa=True)
    )
    assert 0 < error(lambda *inputs: causal_attention(*inputs, 0.3)) < 1.5 * fused < 0.1


def test_a_model_asks_for_it_only_while_it_is_open(tiny_model: PreTrainedModel) -> None:
    config = tiny_model.config
    tiny_model.set_attn_implementation("sdpa")
    with causal_products(config, 10):
        assert config._attn_implementation == NAME
    assert config._attn_implementation == "sdpa"
    config.sliding_window = 8
    with causal_products(config, 9):
        assert config._attn_implementation == "sdpa"
    tiny_model.set_attn_implementation("eager")
    with causal_products(config, 4):
        assert config._attn_implementation == "eager"
