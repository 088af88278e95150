"""The head's loss in chunks, and the schedule that training follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from potstill.distill import objective
from potstill.distill.objective import Lesson, head_losses, position_weights
from potstill.distill.schedule import Clock, StepCount, learning_rate_factor, temperature_at
from potstill.losses import cross_entropy, forward_kl
from potstill.recipe import JointSection, LossesSection, TemperatureSection
from potstill.signals.formats import HiddenRows, TopKRows, encode_topk


@dataclass
class Exercise:
    """Losses by hand, over numbered rows."""

    by_row: Callable[[torch.Tensor, Any], dict[str, torch.Tensor]]
    weights: dict[str, torch.Tensor]
    divisible: bool = True
    numbers: torch.Tensor | None = None

    def at(self, rows: slice) -> Exercise:
        everything = torch.arange(10) if self.numbers is None else self.numbers
        weights = {name: weight[rows] for name, weight in self.weights.items()}
        return Exercise(self.by_row, weights, self.divisible, everything[rows])

    def losses(self, logits: torch.Tensor, rows: slice) -> dict[str, torch.Tensor]:
        assert self.numbers is not None
        return self.by_row(logits, self.numbers[rows])


@pytest.mark.parametrize("chunk", [1, 3, 10, 100])  # 1: gradients are gathered in two groups, the second smaller
@pytest.mark.parametrize(("cached", "divisible"), [(1, True), (60, True), (2**18, True), (1, False)])  # 1, 2, all, all
def test_chunked_is_plain(monkeypatch: pytest.MonkeyPatch, chunk: int, cached: int, divisible: bool) -> None:
    random = torch.Generator().manual_seed(0)
    states, weight = torch.randn(10, 8, generator=random), torch.randn(30, 8, generator=random)
    teacher, tokens = torch.randn(10, 30, generator=random), torch.randint(0, 30, (10,), generator=random)
    weights = {"kl": torch.rand(10, generator=random), "ce": torch.tensor([0.0, 2.0] * 5)}

    def losses(logits: torch.Tensor, rows: Any) -> dict[str, torch.Tensor]:
        return {"kl": forward_kl(teacher[rows], logits, 2.0), "ce": cross_entropy(logits, tokens[rows])}

    monkeypatch.setattr(objective, "CACHED", cached)
    results = []
    for chunked in (True, False):
        s, w = states.clone().requires_grad_(), weight.clone().requires_grad_()
        if chunked:
            total, sums = head_losses(s, w, Exercise(losses, weights, divisible), chunk, torch.float32)
        else:
            each = losses(s @ w.T, slice(None))
            total = sum(weights[name] @ value for name, value in each.items())
            sums = {"kl": each["kl"].sum().detach(), "ce": each["ce"][1::2].sum().detach()}
        (3 * total).backward()
        results.append((total.detach(), s.grad, w.grad, sums["kl"], sums["ce"]))
    for chunked_part, plain_part in zip(*results, strict=True):
        torch.testing.assert_close(chunked_part, plain_part, rtol=1e-4, atol=1e-5)


def test_without_weights_there_is_no_loss_and_no_gradient() -> None:
    states, weight = torch.randn(4, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    total, sums = head_losses(states, weight, Exercise(lambda logits, rows: {}, {}), 2, torch.float32)
    total.backward()
    assert (float(total.detach()), sums) == (0.0, {})
    assert states.grad is not None
    assert not states.grad.any()


@pytest.mark.parametrize("kind", ["all logits", "topk"])
def test_part_of_a_lesson_is_that_part_of_the_whole(kind: str) -> None:
    random = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(9, 20, generator=random), torch.randn(9, 20, generator=random)
    arrays = encode_topk(teacher, torch.eye(20), 5, (2.0,))
    topk = TopKRows(arrays["topk.ids"], arrays["topk.log_probabilities"], {2.0: arrays["topk.rests"][:, 0]})
    rows = {"all logits": HiddenRows(teacher, torch.eye(20)), "topk": topk}[kind]
    section, tokens = LossesSection(reverse_kl=0.5, cross_entropy=0.1), torch.arange(9)
    lesson = Lesson(rows, tokens, 2.0, section, {name: torch.arange(9.0) for name in section.weights()})
    part, whole = lesson.at(slice(2, 8)), lesson.losses(student, slice(None))
    assert all(torch.equal(part.weights[name], lesson.weights[name][2:8]) for name in whole)
    for name, found in part.losses(student[3:6], slice(1, 4)).items():
        torch.testing.assert_close(found, whole[name][3:6])


def test_what_each_position_teaches() -> None:
    given, kept = torch.tensor([True, True, False, False]), torch.tensor([1.0, 0.0, 1.0, 0.0])

    def weights(cross: float, losses: str) -> dict[str, list[float]]:
        found = position_weights({"forward_kl": 2.0}, cross, JointSection(losses=losses), given, kept)
        return {name: weight.tolist() for name, weight in found.items()}

    assert weights(0.0, "same") == {"forward_kl": [2.0, 0.0, 2.0, 0.0]}
    assert weights(0.5, "same") == {"forward_kl": [2.0, 0.0, 2.0, 0.0], "cross_entropy": [0.5, 0.0, 0.5, 0.0]}
    apart = {"forward_kl": [0.0, 0.0, 2.0, 0.0], "cross_entropy": [1.0, 0.0, 0.0, 0.0]}
    assert weights(0.0, "cross_entropy") == apart
    assert weights(0.5, "cross_entropy") == {**apart, "cross_entropy": [0.5, 0.0, 0.5, 0.0]}


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_both_formats_know_every_temperature_of_the_schedule(schedule: str, progress: float) -> None:
    section = TemperatureSection(schedule=schedule, start=5.0, end=2.0, levels=7)
    teacher, student = torch.randn(6, 20), torch.randn(6, 20)
    stored = section.values()
    arrays = encode_topk(teacher, torch.eye(20), 20, stored)
    rests = {temperature: arrays["topk.rests"][:, column] for column, temperature in enumerate(stored)}
    topk = TopKRows(arrays["topk.ids"], arrays["topk.log_probabilities"], rests)
    temperature = temperature_at(section, progress)
    wanted = LossesSection()
    dense = HiddenRows(teacher, torch.eye(20)).losses(student, slice(None), temperature, wanted)
    sparse = topk.losses(student, slice(None), temperature, wanted)
    torch.testing.assert_close(sparse["forward_kl"], dense["forward_kl"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dense["forward_kl"], forward_kl(teacher, student, temperature))


def test_the_learning_rate_falls_as_asked() -> None:
    for decay, half in (("linear", 0.5), ("cosine", 0.5)):
        assert learning_rate_factor(0.2, 0.1, 0.1, decay) == pytest.approx(1.0)
        assert learning_rate_factor(0.6, 0.1, 0.1, decay) == pytest.approx(half)
        assert learning_rate_factor(1.0, 0.1, 0.1, decay) == pytest.approx(0.0)
    assert learning_rate_factor(0.4, 0.1, 0.1, "cosine") == pytest.approx(0.853553, rel=1e-5)
    assert learning_rate_factor(0.4, 0.1, 0.1, "linear") == pytest.approx(0.75)


def test_the_clock_lands_at_its_budget_on_any_machine() -> None:
    for step_seconds in (0.1, 7.0):
        time = [0.0]
        clock = Clock(60.0, now=lambda time=time: time[0])
        clock.start()
        middles = []
        while not clock.is_over():
            middles.append(clock.middle())
            time[0] += step_seconds
            clock.steps += 1
        assert abs(clock.used() - 60.0) <= step_seconds / 2 + 1e-9
        # But for the first step, of which nothing is known yet; the last one may reach beyond the budget.
        assert middles[1:-1] == pytest.approx([(k + 0.5) * step_seconds / 60 for k in range(1, len(middles) - 1)])
        factors = [learning_rate_factor(middle, 0.0, 0.1, "linear") for middle in middles]
        assert 0 < factors[-1] <= step_seconds / 60 / 0.9


def test_time_used_before_a_kill_counts() -> None:
    time = [100.0]
    clock = Clock(60.0, used_before=45.0, now=lambda: time[0])
    clock.start()
    time[0] += 10.0
    clock.steps = 1
    assert clock.used() == pytest.approx(55.0)
    assert clock.step_seconds() == pytest.approx(10.0)
    assert clock.behind() == pytest.approx(55 / 60)
    assert clock.is_over()


def test_steps_end_at_one() -> None:
    count = StepCount(total=4)
    seen, middles, behind = [], [], []
    for done in range(4):
        count.done = done
        behind.append(count.behind())
        seen.append(count.progress())
        middles.append(count.middle())
    assert behind == [0.0, 0.25, 0.5, 0.75]
    assert seen == [0.25, 0.5, 0.75, 1.0]
    assert middles == [0.125, 0.375, 0.625, 0.875]
    assert learning_rate_factor(1.0, 0.0, 0.1, "linear") == 0.0
    assert learning_rate_factor(0.1, 0.0, 0.1, "linear") == pytest.approx(1.0)
    assert learning_rate_factor(0.25, 0.2, 0.1, "linear") == pytest.approx(0.5)


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
