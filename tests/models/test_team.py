"""A team's replies are those of an engine alone, whoever writes them, however many there are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from potstill.models import team
from potstill.models.engine import Engine, Messages, Sampling
from potstill.models.team import ALONE, Team, members_that_fit
from potstill.problem import Problem

SAMPLED = Sampling(temperature=1.0, top_p=1.0, top_k=0, seed=5, max_tokens=12, repeat_penalty=1.0)
QUESTIONS: list[Messages] = [
    [{"role": "user", "content": text}] for text in ("你好", "hello there", "写一首诗。", "1+1", "再见")
]
REQUESTS = [(messages, replace(SAMPLED, seed=seed)) for seed, messages in enumerate(QUESTIONS)]


def texts(gguf: Path, members: int) -> list[str]:
    with Team(gguf, context=96, members=members) as writers:
        replies = dict(writers.write(REQUESTS))
    return [replies[place].text for place in range(len(REQUESTS))]


def test_however_many_members_the_replies_are_the_same(tiny_gguf: Path) -> None:
    with Engine(tiny_gguf, context=96, slots=1, threads=ALONE) as engine:
        alone = [engine.reply(*request).text for request in REQUESTS]

    assert texts(tiny_gguf, 1) == texts(tiny_gguf, 3) == alone
    assert len(set(alone)) == len(alone)


def test_prompts_are_counted_as_the_engine_counts_them(tiny_gguf: Path) -> None:
    with (
        Team(tiny_gguf, context=96, members=2) as writers,
        Engine(tiny_gguf, context=96, slots=1, threads=ALONE) as engine,
    ):
        assert writers.prompt_ids(QUESTIONS) == [engine.prompt_ids(messages) for messages in QUESTIONS]


def test_a_prompt_without_room_is_refused(tiny_gguf: Path) -> None:
    long = [{"role": "user", "content": "你好" * 200}]
    with Team(tiny_gguf, context=32, members=1) as writers, pytest.raises(Problem, match="context of 32"):
        list(writers.write([(long, SAMPLED)]))


def test_breaking_off_ends_at_once(tiny_gguf: Path) -> None:
    endless = replace(SAMPLED, max_tokens=400)
    with Team(tiny_gguf, context=480, members=2) as writers:
        replies = writers.write([(messages, endless) for messages in QUESTIONS * 20])
        next(replies)
        replies.close()

        with pytest.raises(RuntimeError):
            list(writers.write(REQUESTS))


def test_memory_decides_how_many_fit(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = tiny_gguf.stat().st_size / 1e6

    def fit(free: float) -> int:
        monkeypatch.setattr(team, "available_memory_mb", lambda: free)
        return members_that_fit(tiny_gguf, cores=4)

    assert [fit(0.0), fit(size * 6), fit(size * 1000)] == [1, 2, 4]
