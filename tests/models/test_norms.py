from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from potstill.models import norms
from potstill.models.norms import rms_norm, written_out_norms


@pytest.mark.parametrize("shape", [(2, 5, 24), (3, 2, 4, 8), (1, 1, 24)])
def test_values_and_gradients_are_transformers_own(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "CACHED", 50)  # several rounds, the last of them short
    torch.manual_seed(0)
    states, weight = torch.randn(shape).requires_grad_(), torch.randn(shape[-1]).requires_grad_()
    outer = torch.randn(shape)
    found = rms_norm(states, weight, 1e-6)
    ours = torch.autograd.grad(found, [states, weight], outer)
    norm = Qwen2RMSNorm(shape[-1], eps=1e-6)
    norm.load_state_dict({"weight": weight.detach()})
    expected = norm(states)
    wanted = torch.autograd.grad(expected, [states, norm.weight], outer)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours, wanted)


def test_in_bfloat16_it_rounds_where_transformers_rounds() -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(2, 7, 64).bfloat16(), torch.randn(64).bfloat16()
    norm = Qwen2RMSNorm(64, eps=1e-6).bfloat16()
    norm.load_state_dict({"weight": weight})
    found = rms_norm(states, weight, 1e-6)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, norm(states), rtol=2**-8, atol=0)


def test_states_that_are_all_zero_stay_so_and_have_a_finite_gradient() -> None:
    states = torch.zeros(2, 8, requires_grad=True)
    rms_norm(states, torch.ones(8), 1e-6).sum().backward()
    assert states.grad is not None and states.grad.isfinite().all()


def test_a_model_norms_so_only_while_it_is_open() -> None:
    model = nn.Sequential(nn.Linear(8, 8), Qwen2RMSNorm(8))
    states = torch.randn(3, 8)
    with written_out_norms(model):
        graph = type(model(states).grad_fn).__name__
    assert "WrittenOut" in graph
    assert "WrittenOut" not in type(model(states).grad_fn).__name__


def test_it_is_closed_after_an_error_too() -> None:
    norm = Qwen2RMSNorm(8)
    with pytest.raises(RuntimeError), written_out_norms(norm):
        norm(torch.randn(3, 9))
    assert "forward" not in vars(norm)
