"""Drawing: the same distribution as the library's processors give, one number for one token."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from potstill.models.drawing import draw
from potstill.models.engine import PENALTY_WINDOW, Sampling

VOCABULARY, WIDTH, DRAWS = 500, 16, 20_000


def sampling(**changed: float) -> Sampling:
    plain = {"temperature": 1.0, "top_p": 1.0, "top_k": VOCABULARY, "repeat_penalty": 1.0}
    return Sampling(**{**plain, **changed}, seed=0, max_tokens=1)  # type: ignore[arg-type]


def shares(wanted: Sampling, states: torch.Tensor, head: torch.Tensor, recent: torch.Tensor) -> torch.Tensor:
    """How often each token comes where the numbers cover [0, 1) evenly."""
    numbers = (torch.arange(DRAWS, dtype=torch.float64) + 0.5) / DRAWS
    ids = draw(states.expand(DRAWS, -1), head, recent.expand(DRAWS, -1), wanted, numbers)
    return torch.bincount(ids, minlength=VOCABULARY) / DRAWS


def expected(wanted: Sampling, states: torch.Tensor, head: torch.Tensor, recent: torch.Tensor) -> torch.Tensor:
    processors = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(wanted.repeat_penalty),
            *([TopKLogitsWarper(wanted.top_k)] if wanted.top_k else []),
            *([TopPLogitsWarper(wanted.top_p)] if wanted.top_p < 1 else []),
            TemperatureLogitsWarper(wanted.temperature),
        ]
    )
    return processors(recent, states @ head.T).softmax(dim=-1)[0]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 7},
        {"top_k": 0, "temperature": 0.9},
        {"top_p": 0.6},
        {"repeat_penalty": 1.5},
        {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repeat_penalty": 1.1},
    ],
)
def test_tokens_come_as_often_as_the_librarys_processors_say(changed: dict[str, float]) -> None:
    random = torch.Generator().manual_seed(1)
    states, head = torch.randn(1, WIDTH, generator=random), torch.randn(VOCABULARY, WIDTH, generator=random)
    likeliest = (states @ head.T)[0].topk(40).indices
    recent = likeliest[torch.randint(0, 40, (1, PENALTY_WINDOW), generator=random)]
    wanted = sampling(**changed)
    found, right = shares(wanted, states, head, recent), expected(wanted, states, head, recent)
    assert (found - right).abs().max() <= 2 / DRAWS
    assert not found[right == 0].any()


def test_at_temperature_zero_the_likeliest_comes_whatever_the_number() -> None:
    states, head = torch.randn(3, WIDTH), torch.randn(VOCABULARY, WIDTH)
    recent = torch.zeros(3, PENALTY_WINDOW, dtype=torch.long)
    ids = draw(states, head, recent, sampling(temperature=0.0, top_k=20), torch.tensor([0.0, 0.5, 0.999]))
    assert torch.equal(ids, (states @ head.T).argmax(dim=-1))


def test_the_largest_number_below_one_draws_a_token_that_is_kept() -> None:
    states, head = torch.randn(1, WIDTH), torch.randn(VOCABULARY, WIDTH)
    recent = torch.zeros(1, PENALTY_WINDOW, dtype=torch.long)
    wanted = sampling(top_k=5, top_p=0.5)
    (token,) = draw(states, head, recent, wanted, torch.tensor([1 - 1e-9], dtype=torch.float64)).tolist()
    assert expected(wanted, states, head, recent)[token] > 0


def test_neighbours_that_half_precision_rounds_alike_are_told_apart() -> None:
    states = torch.tensor([[100.0, 1.0]], dtype=torch.bfloat16)
    head = torch.tensor([[1.0, 0.0], [1.0, 0.25], [0.5, 0.0]], dtype=torch.bfloat16)
    recent = torch.full((1, PENALTY_WINDOW), 2)
    assert (states @ head.T)[0, 0] == (states @ head.T)[0, 1]
    assert draw(states, head, recent, sampling(temperature=0.0, top_k=3), torch.zeros(1)).tolist() == [1]
