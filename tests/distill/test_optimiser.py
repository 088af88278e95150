"""Natural steps: the path turns with the inputs, rows move alike, and without an inverse it is AdamW."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from potstill.distill.optimiser import NaturalAdamW
from potstill.distill.state import load_state, save_state

ROWS, COLUMNS = 6, 8


def spread_inputs(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs that lie mostly along a few directions that are no axes, and what should come out."""
    random = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(COLUMNS, COLUMNS, generator=random))[0] * 1.5 ** -torch.arange(COLUMNS)
    for _ in range(steps):
        yield torch.randn(32, COLUMNS, generator=random) @ directions.T, torch.randn(32, ROWS, generator=random)


def inverse() -> Tensor:
    seen = torch.cat([inputs for inputs, _ in spread_inputs(20)])
    values, vectors = torch.linalg.eigh(seen.T @ seen / len(seen))
    return (vectors / values) @ vectors.T


def teach(weight: nn.Parameter, optimiser: torch.optim.Optimizer, steps: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    for inputs, wanted in steps:
        (inputs @ weight.T - wanted).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    return weight.detach().clone()


def start() -> nn.Parameter:
    return nn.Parameter(torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1)))


def test_turned_inputs_turn_the_path() -> None:
    steps, random = list(spread_inputs(8)), torch.Generator().manual_seed(2)
    turn = torch.linalg.qr(torch.randn(COLUMNS, COLUMNS, generator=random))[0]
    turned_steps = [(inputs @ turn, wanted) for inputs, wanted in steps]
    plain, turned = start(), nn.Parameter(start().detach() @ turn)
    one = teach(plain, NaturalAdamW([plain], {plain: inverse()}, lr=0.05), steps)
    other = teach(turned, NaturalAdamW([turned], {turned: turn.T @ inverse() @ turn}, lr=0.05), turned_steps)
    assert torch.allclose(one @ turn, other, atol=1e-5)
    again = nn.Parameter(start().detach() @ turn)
    plain = start()
    one = teach(plain, torch.optim.AdamW([plain], lr=0.05), steps)
    other = teach(again, torch.optim.AdamW([again], lr=0.05), turned_steps)
    assert not torch.allclose(one @ turn, other, atol=1e-2)


def test_every_row_moves_by_the_rate_at_first() -> None:
    weight = start()
    before = weight.detach().clone()
    after = teach(
        weight, NaturalAdamW([weight], {weight: inverse()}, lr=0.01, weight_decay=0.0), list(spread_inputs(1))
    )
    assert torch.allclose((after - before).square().mean(dim=1).sqrt(), torch.full((ROWS,), 0.01), rtol=1e-3)


def test_without_inverses_it_is_adamw() -> None:
    one, other, steps = start(), start(), list(spread_inputs(4))
    options = {"lr": 0.05, "betas": (0.9, 0.95), "weight_decay": 0.1}
    ours = teach(one, NaturalAdamW([one], {}, **options), steps)
    assert torch.equal(ours, teach(other, torch.optim.AdamW([other], **options), steps))


def test_weight_decay_shrinks_what_has_no_gradient_of_its_own() -> None:
    weight = nn.Parameter(torch.ones(ROWS, COLUMNS))
    optimiser = NaturalAdamW([weight], {weight: torch.eye(COLUMNS)}, lr=0.5, weight_decay=0.1)
    weight.grad = torch.zeros_like(weight)
    optimiser.step()
    assert torch.allclose(weight, torch.full_like(weight, 0.95))


def test_what_has_no_inverse_moves_along() -> None:
    matrix, bias = start(), nn.Parameter(torch.zeros(ROWS))
    optimiser = NaturalAdamW([matrix, bias], {matrix: inverse()}, lr=0.01)
    for inputs, wanted in spread_inputs(3):
        (inputs @ matrix.T + bias - wanted).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    assert float(bias.detach().abs().min()) > 0
    # One second moment a row: the state of the matrix is hardly larger than one copy of it.
    assert sum(value.numel() for value in optimiser.state[matrix].values()) == ROWS * COLUMNS + ROWS + 1


def test_in_bfloat16_the_path_is_nearly_the_same() -> None:
    steps, exact, rounded = list(spread_inputs(40)), start(), start()
    one = teach(exact, NaturalAdamW([exact], {exact: inverse()}, lr=0.01), steps)
    optimiser = NaturalAdamW([rounded], {rounded: inverse().bfloat16()}, lr=0.01)
    other = teach(rounded, optimiser, steps)
    assert optimiser.state[rounded]["exp_avg"].dtype == torch.bfloat16
    assert 0 < float((one - other).norm()) < 0.05 * float((one - start().detach()).norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kill_changes_nothing(tmp_path: Path, dtype: torch.dtype) -> None:
    steps, rounded = list(spread_inputs(6)), inverse().to(dtype)
    whole = start()
    never = teach(whole, NaturalAdamW([whole], {whole: rounded}, lr=0.05), steps)
    killed = start()
    optimiser = NaturalAdamW([killed], {killed: rounded}, lr=0.05)
    teach(killed, optimiser, steps[:3])
    save_state(optimiser, {}, tmp_path / "state.safetensors")
    resumed = nn.Parameter(copy.deepcopy(killed.detach()))
    other = NaturalAdamW([resumed], {resumed: rounded}, lr=0.05)
    load_state(other, tmp_path / "state.safetensors")
    assert other.state[resumed]["exp_avg"].dtype == dtype
    assert torch.equal(teach(resumed, other, steps[3:]), never)
