"""Which positions of which answers are left out."""

from __future__ import annotations

import torch

from potstill.distill.tail import kept_positions
from potstill.recipe import TailSection

WIDTH = 30
ROWS = torch.cat([torch.arange(3, 23), WIDTH + torch.arange(1, 8), 2 * WIDTH + torch.arange(5, 8)])
"""Answers of 20, 7 and 3 positions in a batch of three sequences."""


def kept(probability: float, share: float, step: int = 0, seed: int = 0, numbers: tuple = (4, 9, 2)) -> list[float]:
    section = TailSection(probability=probability, share=share)
    return kept_positions(ROWS, WIDTH, numbers, section, seed, step).tolist()


def test_the_last_fifteen_percent_of_each_answer_and_nothing_else() -> None:
    assert kept(1.0, 0.15) == [1.0] * 17 + [0.0] * 3 + [1.0] * 6 + [0.0] + [1.0] * 3
    assert kept(1.0, 0.5) == [1.0] * 10 + [0.0] * 10 + [1.0] * 3 + [0.0] * 4 + [1.0] + [0.0] * 2
    assert kept(1.0, 1.0) == [0.0] * 30


def test_without_probability_or_share_everything_teaches() -> None:
    assert kept(0.0, 0.5) == [1.0] * 30
    assert kept(1.0, 0.0) == [1.0] * 30


def test_each_answer_draws_for_itself_by_its_probability() -> None:
    masked = [[values[19] == 0.0, values[26] == 0.0] for values in (kept(0.3, 0.15, step) for step in range(1000))]
    both = sum(first and second for first, second in masked)
    for column in (0, 1):
        assert 240 < sum(draw[column] for draw in masked) < 360
    assert 55 < both < 130  # 0.09 of 1000 where they are independent


def test_a_draw_depends_on_seed_step_and_number_alone() -> None:
    assert kept(0.5, 0.5, step=7) == kept(0.5, 0.5, step=7)
    assert len({tuple(kept(0.5, 0.5, step=step)) for step in range(20)}) > 3
    assert len({tuple(kept(0.5, 0.5, seed=seed)) for seed in range(20)}) > 3
    swapped = kept_positions(
        torch.cat([torch.arange(1, 8), WIDTH + torch.arange(3, 23)]), WIDTH, (9, 4), TailSection(probability=0.5), 0, 7
    ).tolist()
    there = kept_positions(ROWS, WIDTH, (4, 9, 2), TailSection(probability=0.5), 0, 7).tolist()
    assert swapped == there[20:27] + there[:20]
