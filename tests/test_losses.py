"""The divergences: identities first, then the edges."""

from __future__ import annotations

import math

import pytest
import torch

from potstill.losses import (
    attention_kl,
    bucket_sides,
    cross_entropy,
    dense_sides,
    divergences,
    forward_kl,
    hidden_cosine,
)
from potstill.recipe import LossesSection
from potstill.signals.formats import HiddenRows, Rows, TopKRows, encode_topk

TEMPERATURES = (1.0, 2.0, 5.0)
NAMES = ("forward_kl", "reverse_kl", "jensen_shannon", "skewed_kl", "total_variation")
ALL = LossesSection(**dict.fromkeys(NAMES, 1.0))


@pytest.fixture
def logits() -> torch.Tensor:
    return 4 * torch.randn(7, 40, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def student() -> torch.Tensor:
    return torch.randn(7, 40, generator=torch.Generator().manual_seed(2))


def topk_rows(logits: torch.Tensor, k: int) -> TopKRows:
    """The stored form of given logits: a head that is the identity makes states the logits."""
    arrays = encode_topk(logits, torch.eye(logits.shape[1]), k, TEMPERATURES)
    rests = {temperature: arrays["topk.rests"][:, column] for column, temperature in enumerate(TEMPERATURES)}
    return TopKRows(arrays["topk.ids"], arrays["topk.log_probabilities"], rests)


def every_loss(rows: Rows, student: torch.Tensor, temperature: float) -> dict[str, torch.Tensor]:
    found = rows.losses(student, slice(None), temperature, ALL)
    assert tuple(found) == NAMES
    return found


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("k", [1, 5, 40])
def test_teacher_as_student_costs_nothing_in_both_formats(logits: torch.Tensor, temperature: float, k: int) -> None:
    dense = every_loss(HiddenRows(logits, torch.eye(40)), logits, temperature)
    for name in ("forward_kl", "reverse_kl", "total_variation"):
        assert torch.equal(dense[name], torch.zeros(7))
    for name, value in (dense | every_loss(topk_rows(logits, k), logits, temperature)).items():
        assert value.abs().max() < 1e-4, name


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("k", [1, 5, 40])
def test_any_other_student_costs_something(
    logits: torch.Tensor, student: torch.Tensor, temperature: float, k: int
) -> None:
    for name, value in every_loss(topk_rows(logits, k), student, temperature).items():
        assert value.min() > 1e-4, name


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_top_k_with_every_token_is_dense(logits: torch.Tensor, student: torch.Tensor, temperature: float) -> None:
    dense = every_loss(HiddenRows(logits, torch.eye(40)), student, temperature)
    sparse = every_loss(topk_rows(logits, 40), student, temperature)
    for name in NAMES:
        torch.testing.assert_close(sparse[name], dense[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_bucket_never_says_more_than_all_logits(
    logits: torch.Tensor, student: torch.Tensor, temperature: float
) -> None:
    """Merging outcomes can only lose information (data processing inequality)."""
    dense = every_loss(HiddenRows(logits, torch.eye(40)), student, temperature)
    sparse = every_loss(topk_rows(logits, 5), student, temperature)
    for name in NAMES:
        assert (sparse[name] >= -1e-5).all(), name
        assert (sparse[name] <= dense[name] + 1e-4).all(), name
        assert (sparse[name] < dense[name] - 1e-4).any(), name


def test_the_divergences_are_the_textbook_sums() -> None:
    p, q = [0.7, 0.2, 0.1], [0.1, 0.3, 0.6]

    def kl(ours: list[float], theirs: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(ours, theirs, strict=True))

    def mix(share: float) -> list[float]:
        return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]

    expected = {
        "forward_kl": kl(p, q),
        "reverse_kl": kl(q, p),
        "jensen_shannon": 0.3 * kl(p, mix(0.3)) + 0.7 * kl(q, mix(0.3)),
        "skewed_kl": kl(p, mix(0.2)),
        "total_variation": sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2,
    }
    sides = dense_sides(torch.tensor([p]).log(), torch.tensor([q]).log(), 1.0)
    found = divergences(sides, 1.0, NAMES, mixture=0.3, skew=0.2)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-5)


def test_bounded_divergences_stay_bounded_where_forward_kl_runs_away() -> None:
    sides = dense_sides(torch.tensor([[60.0, 0.0]]), torch.tensor([[0.0, 60.0]]), 1.0)
    found = {name: float(value) for name, value in divergences(sides, 1.0, NAMES, mixture=0.5, skew=0.1).items()}
    assert found["forward_kl"] == pytest.approx(60.0, rel=1e-3)
    assert found["jensen_shannon"] == pytest.approx(math.log(2), rel=1e-4)
    assert found["skewed_kl"] == pytest.approx(-math.log(0.1), rel=1e-4)
    assert found["total_variation"] == pytest.approx(1.0, rel=1e-4)


def test_only_what_has_a_weight_is_computed(logits: torch.Tensor, student: torch.Tensor) -> None:
    section = LossesSection(forward_kl=0.0, reverse_kl=2.0, cross_entropy=1.0)
    rows = HiddenRows(logits, torch.eye(40))
    assert rows.weights(section) == {"reverse_kl": 2.0}
    found = rows.losses(student[2:5], slice(2, 5), 1.0, section)
    assert {name: value.shape for name, value in found.items()} == {"reverse_kl": (3,)}


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jensen_shannon", "skewed_kl"])
def test_gradient_at_high_temperature_keeps_its_size(logits: torch.Tensor, name: str) -> None:
    """T² makes up for the softening: without it the gradient at T = 20 would be four times smaller than at 10."""
    sizes = []
    for temperature in (10.0, 20.0):
        student = torch.zeros(7, 40, requires_grad=True)
        sides = dense_sides(logits, student, temperature)
        divergences(sides, temperature, (name,), 0.5, 0.1)[name].sum().backward()
        assert student.grad is not None
        sizes.append(float(student.grad.norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.2)


def test_no_gradient_reaches_the_teacher(logits: torch.Tensor) -> None:
    teacher, student = logits.clone().requires_grad_(), torch.zeros(7, 40, requires_grad=True)
    sum(divergences(dense_sides(teacher, student, 2.0), 2.0, NAMES, 0.5, 0.1).values()).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_a_temperature_without_a_stored_rest_is_refused(logits: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"T = 3\.0"):
        topk_rows(logits, 5).divergence(logits, slice(None), 3.0)


def test_different_shapes_are_refused(logits: torch.Tensor) -> None:
    for wrong in (
        lambda: forward_kl(logits, logits[:, :39], 1.0),
        lambda: divergences((logits, logits[:, :39]), 1.0, NAMES, 0.5, 0.1),
        lambda: bucket_sides(torch.zeros(7, 3), torch.zeros(7, 2), torch.zeros(7), logits, 1.0),
        lambda: bucket_sides(torch.zeros(7, 2), torch.zeros(7, 2), torch.zeros(6), logits, 1.0),
        lambda: cross_entropy(logits, torch.zeros(6, dtype=torch.long)),
        lambda: hidden_cosine(logits, logits[:, :39]),
        lambda: attention_kl(logits, logits[:6]),
    ):
        with pytest.raises(ValueError, match="differ"):
            wrong()


def test_a_teacher_sure_of_its_top_k_gives_finite_losses_and_gradients() -> None:
    """A rest of exactly 0 beside a student that puts nearly everything there, with and without a bucket."""
    for width in (2, 3):
        student = torch.tensor([[0.0, 1.0, 50.0][:width]], requires_grad=True)
        sides = bucket_sides(
            torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]).log(), torch.tensor([float("-inf")]), student, 1.0
        )
        found = divergences(sides, 1.0, NAMES, 0.5, 0.1)
        for name, value in found.items():
            (gradient,) = torch.autograd.grad(value.sum(), student, retain_graph=True)
            assert torch.isfinite(value).all(), name
            assert torch.isfinite(gradient).all(), name


def test_cross_entropy_is_the_surprise_at_the_token() -> None:
    student = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]).log().half()
    expected = -torch.tensor([0.2, 0.6]).log()
    torch.testing.assert_close(cross_entropy(student, torch.tensor([1, 2])), expected, rtol=1e-3, atol=1e-3)


def test_cosine_sees_directions_not_lengths() -> None:
    states = torch.randn(5, 8)
    assert hidden_cosine(3 * states, states).abs().max() < 1e-6
    torch.testing.assert_close(hidden_cosine(-states, states), torch.full((5,), 2.0))


def test_attention_is_compared_over_what_can_be_seen() -> None:
    seen = torch.tensor([[0.25, 0.75, 0.0], [0.2, 0.3, 0.5]])
    assert attention_kl(seen.half(), seen).abs().max() < 1e-6
    other = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], requires_grad=True)
    found = attention_kl(seen, other)
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert found.tolist() == pytest.approx([expected, 0.0], abs=1e-6)
    found.sum().backward()
    assert other.grad is not None
    assert torch.isfinite(other.grad).all()
