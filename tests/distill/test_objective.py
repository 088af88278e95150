"""The head's loss in chunks, and the schedule that training follows."""

from __future__ import annotations

import pytest
import torch

from potstill.distill.objective import head_loss
from potstill.distill.schedule import Clock, StepCount, learning_rate_factor, temperature_at
from potstill.losses import forward_kl
from potstill.recipe import TemperatureSection


@pytest.mark.parametrize("chunk", [1, 3, 10, 100])
def test_chunked_is_plain(chunk: int) -> None:
    random = torch.Generator().manual_seed(0)
    states, weight = torch.randn(10, 8, generator=random), torch.randn(30, 8, generator=random)
    teacher = torch.randn(10, 30, generator=random)
    results = []
    for chunked in (True, False):
        s, w = states.clone().requires_grad_(), weight.clone().requires_grad_()
        if chunked:
            loss = head_loss(s, w, lambda logits, rows: forward_kl(teacher[rows], logits, 2.0), chunk, torch.float32)
        else:
            loss = forward_kl(teacher, s @ w.T, 2.0).sum()
        (3 * loss).backward()
        results.append((loss.detach(), s.grad, w.grad))
    for chunked_part, plain_part in zip(*results, strict=True):
        torch.testing.assert_close(chunked_part, plain_part, rtol=1e-4, atol=1e-5)


def test_the_clock_lands_at_its_budget_on_any_machine() -> None:
    for step_seconds in (0.1, 7.0):
        time = [0.0]
        clock = Clock(60.0, now=lambda time=time: time[0])
        clock.start()
        factors = []
        while not clock.is_over():
            factors.append(learning_rate_factor(clock.progress(), 0.0, 0.1))
            time[0] += step_seconds
            clock.steps += 1
        assert abs(clock.used() - 60.0) <= step_seconds / 2 + 1e-9
        assert factors[-1] <= 0.9 * step_seconds / 60 / 0.9 + 1e-9
        assert max(factors) > 0.85


def test_time_used_before_a_kill_counts() -> None:
    time = [100.0]
    clock = Clock(60.0, used_before=45.0, now=lambda: time[0])
    clock.start()
    time[0] += 10.0
    clock.steps = 1
    assert clock.used() == pytest.approx(55.0)
    assert clock.step_seconds() == pytest.approx(10.0)
    assert clock.is_over()


def test_steps_end_at_one() -> None:
    count = StepCount(total=4)
    seen = []
    for done in range(4):
        count.done = done
        seen.append(count.progress())
    assert seen == [0.25, 0.5, 0.75, 1.0]
    assert learning_rate_factor(1.0, 0.0, 0.1) == 0.0
    assert learning_rate_factor(0.1, 0.0, 0.1) == pytest.approx(1.0)
    assert learning_rate_factor(0.25, 0.2, 0.1) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_temperature_goes_from_start_to_end_over_stored_values(schedule: str) -> None:
    section = TemperatureSection(schedule=schedule, start=5.0, end=2.0, levels=7)
    path = [temperature_at(section, step / 200) for step in range(201)]
    assert (path[0], path[-1]) == (5.0, 2.0)
    assert set(path) == set(section.values())
    assert path == sorted(path, reverse=True)


def test_constant_temperature_has_one_value() -> None:
    section = TemperatureSection(schedule="constant", start=3.0, end=3.0)
    assert section.values() == (3.0,)
    assert temperature_at(section, 0.7) == 3.0
