"""Losses across vocabularies: nothing where both say the same, and every bit of probability is somewhere."""

from __future__ import annotations

import pytest
import torch

from potstill.losses import NOTHING, forward_kl
from potstill.recipe import LossesSection
from potstill.signals.bound import BoundHead, BoundRows, sorted_distance
from potstill.signals.formats import HiddenRows
from potstill.vocab.binding import bind_exactly
from potstill.vocab.pieces import pieces_of
from tiny import build_tokenizer

ALL = slice(None)
# Student tokens 0 and 3 are bound (3 by two teacher tokens), 1, 2 and 4 are not; teacher tokens 2 and 4 are unbound.
STUDENT_OF = torch.tensor([3, 0, -1, 3, -1, 0])


def rows(student_of: torch.Tensor = STUDENT_OF, students: int = 5, weight: float = 0.0, count: int = 7) -> BoundRows:
    torch.manual_seed(1)
    head = torch.randn(len(student_of), 8)
    return BoundRows(torch.randn(count, 8), BoundHead(head, student_of, students, weight))


def wanted(**weights: float) -> LossesSection:
    return LossesSection.model_validate(weights)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_identity_costs_nothing_and_is_the_plain_loss(temperature: float) -> None:
    pieces = pieces_of(build_tokenizer())
    binding = bind_exactly(pieces, pieces)
    same = rows(torch.from_numpy(binding.student_of), len(pieces), weight=1.0)
    plain = HiddenRows(same.hidden, same.head.head)
    teacher = plain.logits(ALL)
    losses = same.losses(teacher, ALL, temperature, wanted(reverse_kl=1.0, total_variation=1.0))
    assert set(losses) == {"forward_kl", "reverse_kl", "total_variation", "sorted_distance"}
    for loss in losses.values():
        assert loss.abs().max() < 2e-5
    other = torch.randn_like(teacher)
    torch.testing.assert_close(same.divergence(other, ALL, temperature), plain.divergence(other, ALL, temperature))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_probabilities_are_summed_and_the_rest_is_one_bucket(temperature: float) -> None:
    bound, logits = rows(), torch.randn(7, 5)
    p = (bound.hidden @ bound.head.head.T / temperature).softmax(dim=-1)
    q = (logits / temperature).softmax(dim=-1)
    teacher, student = bound.sides(logits, ALL, temperature)
    expected = torch.stack([p[:, 1] + p[:, 5], p[:, 0] + p[:, 3], p[:, 2] + p[:, 4]], dim=1)
    torch.testing.assert_close(teacher.exp(), expected)
    torch.testing.assert_close(student.exp(), torch.stack([q[:, 0], q[:, 3], q[:, [1, 2, 4]].sum(dim=1)], dim=1))


def test_a_student_that_sums_to_the_same_is_perfect() -> None:
    bound = rows()
    teacher = bound.student_logits(ALL)
    torch.testing.assert_close(teacher.exp().sum(dim=-1), torch.ones(7))
    assert bound.divergence(teacher, ALL, 1.0).abs().max() < 1e-6
    moved = teacher.clone()
    moved[:, 1], moved[:, 2] = teacher[:, 1] + 0.5, (2 * teacher[:, 2].exp() - (teacher[:, 1] + 0.5).exp()).log()
    # Inside the bucket, nobody knows what the teacher would prefer.
    assert bound.divergence(moved, ALL, 1.0).abs().max() < 1e-6


def test_unknown_takes_what_is_unbound() -> None:
    """The published way: <unk> (2) takes it all, and what no teacher token stands for should never be said."""
    unknown = rows(torch.where(STUDENT_OF < 0, 2, STUDENT_OF))
    logits = torch.randn(7, 5)
    p = (unknown.hidden @ unknown.head.head.T).softmax(dim=-1)
    full = torch.zeros(7, 5).index_add_(1, unknown.head.student_of, p)
    assert (full[:, [1, 4]] == 0).all()
    teacher, _ = unknown.sides(logits, ALL, 1.0)
    assert (teacher[:, -1] == NOTHING).all()
    expected = forward_kl(full.clamp(min=1e-30).log(), logits, 1.0)
    torch.testing.assert_close(unknown.divergence(logits, ALL, 1.0), expected)


def test_chunks_are_the_whole_and_gradients_reach_every_token() -> None:
    bound, logits = rows(weight=0.5), torch.randn(7, 5, requires_grad=True)
    whole = bound.losses(logits, ALL, 2.0, wanted())
    parts = [bound.losses(logits[part], part, 2.0, wanted()) for part in (slice(0, 4), slice(4, 7))]
    for name, loss in whole.items():
        torch.testing.assert_close(loss, torch.cat([part[name] for part in parts]))
    assert bound.weights(wanted()) == {"forward_kl": 1.0, "sorted_distance": 0.5}
    sum(loss.sum() for loss in whole.values()).backward()
    assert (logits.grad.abs().sum(dim=0) > 0).all()


def test_where_every_student_token_is_bound_the_teacher_is_scaled_to_them() -> None:
    bound = rows(torch.tensor([0, 1, -1, 1]), 2)
    logits = torch.randn(7, 2)
    teacher, student = bound.sides(logits, ALL, 1.0)
    assert teacher.shape == student.shape == (7, 2)
    torch.testing.assert_close(teacher.exp().sum(dim=-1), torch.ones(7))
    assert torch.isfinite(bound.divergence(logits, ALL, 1.0)).all()


def test_sorted_distance_knows_no_names() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2]])
    assert sorted_distance(p, torch.tensor([[0.2, 0.5, 0.3]])).item() == 0.0
    assert sorted_distance(p, torch.tensor([[0.4, 0.6]])).item() == pytest.approx(0.1 + 0.1 + 0.2)
    assert sorted_distance(p, torch.zeros(1, 0)).item() == pytest.approx(1.0)
