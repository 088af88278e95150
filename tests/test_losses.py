"""The divergences: identities first, then the edges."""

from __future__ import annotations

import math

import pytest
import torch

from potstill.losses import bucket_kl, forward_kl, hidden_cosine
from potstill.signals.formats import HiddenRows, TopKRows, encode_topk

TEMPERATURES = (1.0, 2.0, 5.0)


@pytest.fixture
def logits() -> torch.Tensor:
    return 4 * torch.randn(7, 40, generator=torch.Generator().manual_seed(1))


def topk_rows(logits: torch.Tensor, k: int) -> TopKRows:
    """The stored form of given logits: a head that is the identity makes states the logits."""
    arrays = encode_topk(logits, torch.eye(logits.shape[1]), k, TEMPERATURES)
    rests = {temperature: arrays["topk.rests"][:, column] for column, temperature in enumerate(TEMPERATURES)}
    return TopKRows(arrays["topk.ids"], arrays["topk.log_probabilities"], rests)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("k", [1, 5, 40])
def test_teacher_as_student_costs_nothing_in_both_formats(logits: torch.Tensor, temperature: float, k: int) -> None:
    dense = HiddenRows(logits, torch.eye(40)).divergence(logits, slice(None), temperature)
    sparse = topk_rows(logits, k).divergence(logits, slice(None), temperature)
    assert torch.equal(dense, torch.zeros(7))
    assert sparse.abs().max() < 1e-4


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_top_k_with_every_token_is_dense(logits: torch.Tensor, temperature: float) -> None:
    student = torch.randn(7, 40)
    dense = forward_kl(logits, student, temperature)
    sparse = topk_rows(logits, 40).divergence(student, slice(None), temperature)
    torch.testing.assert_close(sparse, dense, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_bucket_never_says_more_than_all_logits(logits: torch.Tensor, temperature: float) -> None:
    """Merging outcomes can only lose information (data processing inequality)."""
    student = torch.randn(7, 40)
    dense = forward_kl(logits, student, temperature)
    sparse = topk_rows(logits, 5).divergence(student, slice(None), temperature)
    assert (sparse >= -1e-5).all()
    assert (sparse <= dense + 1e-4).all()


def test_forward_kl_is_the_textbook_sum() -> None:
    teacher, student = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.1, 0.3, 0.6]])
    expected = sum(p * math.log(p / q) for p, q in zip([0.7, 0.2, 0.1], [0.1, 0.3, 0.6], strict=True))
    assert forward_kl(teacher.log(), student.log(), 1.0).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_at_high_temperature_keeps_its_size(logits: torch.Tensor) -> None:
    """T² makes up for the softening: without it the gradient at T = 20 would be 400 times smaller."""
    sizes = []
    for temperature in (10.0, 20.0):
        student = torch.zeros(7, 40, requires_grad=True)
        forward_kl(logits, student, temperature).sum().backward()
        assert student.grad is not None
        sizes.append(float(student.grad.norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.2)


def test_no_gradient_reaches_the_teacher(logits: torch.Tensor) -> None:
    teacher, student = logits.clone().requires_grad_(), torch.zeros(7, 40, requires_grad=True)
    forward_kl(teacher, student, 2.0).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_a_temperature_without_a_stored_rest_is_refused(logits: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"T = 3\.0"):
        topk_rows(logits, 5).divergence(logits, slice(None), 3.0)


def test_different_vocabularies_are_refused(logits: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="differ"):
        forward_kl(logits, logits[:, :39], 1.0)


def test_bucket_without_rest_is_finite() -> None:
    value = bucket_kl(
        torch.tensor([[0, 1]]),
        torch.tensor([[0.5, 0.5]]).log(),
        torch.tensor([float("-inf")]),
        torch.tensor([[0.0, 1.0]], requires_grad=True),
        1.0,
    )
    assert torch.isfinite(value).all()


def test_cosine_sees_directions_not_lengths() -> None:
    states = torch.randn(5, 8)
    assert hidden_cosine(3 * states, states).abs().max() < 1e-6
    torch.testing.assert_close(hidden_cosine(-states, states), torch.full((5,), 2.0))
