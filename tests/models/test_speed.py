"""Speed is measured in processes of their own, fairly, and the fastest thread setting is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from potstill.models import speed
from potstill.models.engine import Threads, default_threads
from potstill.models.speed import SpeedSample, alternate, candidate_threads, fastest, measure, trial_rates
from potstill.problem import Problem
from potstill.progress import Silent

QUESTIONS = [[{"role": "user", "content": text}] for text in ("你好", "写一首诗。", "1+1")]
ONE = Threads(decode=1, prefill=1, waiting="PASSIVE")
SPINNING = Threads(decode=1, prefill=1, waiting="ACTIVE")


def sample(rate: float) -> SpeedSample:
    return SpeedSample(
        load_s=1.0,
        first_token_ms=(1.0,),
        decode_tok_s=(rate / 2, rate, rate * 100),
        peak_mb=1.0,
        steady_mb=1.0,
        gaps_ms=((1.0,),),
        characters_s=(1.0,),
        joules_per_token=None,
        prompt_tokens=(1,),
        waiting="PASSIVE",
    )


def test_every_prompt_is_measured_with_the_threads_asked_for(tiny_gguf: Path) -> None:
    result = measure(tiny_gguf, SPINNING, QUESTIONS, new_tokens=8, context=64)

    assert len(result.first_token_ms) == len(result.decode_tok_s) == len(QUESTIONS)
    assert all(number > 0 for number in (result.load_s, *result.first_token_ms, *result.decode_tok_s))
    assert result.waiting == "ACTIVE"
    assert all(gap >= 0 for gaps in result.gaps_ms for gap in gaps)
    assert 10 < result.steady_mb <= result.peak_mb
    assert len(result.gaps_ms) == len(result.characters_s) == len(QUESTIONS)


def test_the_peak_is_the_measured_process_s_own(tiny_gguf: Path) -> None:
    large = np.ones(50_000_000)  # 400 MB: ru_maxrss of a child would show them

    result = measure(tiny_gguf, ONE, QUESTIONS[:1], new_tokens=2, context=64)

    assert large[0] == 1
    assert 10 < result.peak_mb < 300


def test_a_prompt_without_room_is_refused_in_the_parent_s_words(tiny_gguf: Path) -> None:
    with pytest.raises(Problem, match="exceed a context of 32") as caught:
        measure(tiny_gguf, ONE, [[{"role": "user", "content": "你好" * 50}]], new_tokens=8, context=32)

    assert "evaluate.context" in caught.value.remedy


def test_bad_files_are_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny_gguf.read_bytes().replace(b"qwen2", b"qwenX"))

    for path in (tmp_path / "missing.gguf", other):
        with pytest.raises(Problem, match=path.name):
            measure(path, ONE, QUESTIONS, new_tokens=4, context=64)


def test_patience_ends(tiny_gguf: Path) -> None:
    with pytest.raises(TimeoutError, match=tiny_gguf.name):
        measure(tiny_gguf, ONE, QUESTIONS, new_tokens=4, context=64, patience_s=0.01)


def test_models_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def note(gguf: Path, threads: Threads, *_: object, **__: object) -> SpeedSample:
        order.append(f"{gguf.name} {threads.waiting}")
        return sample(len(order))

    monkeypatch.setattr(speed, "measure", note)
    models = {"teacher": (Path("t"), ONE), "student": (Path("s"), SPINNING)}

    samples = alternate(models, QUESTIONS, rounds=2, new_tokens=4, context=64, progress=Silent())

    assert order == ["t PASSIVE", "s ACTIVE"] * 2
    assert samples == {"teacher": [sample(1), sample(3)], "student": [sample(2), sample(4)]}


def test_the_fastest_by_median_wins_and_one_that_never_ends_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: dict[int, float] = {1: 30.0, 2: 50.0, 3: 40.0}

    def pretend(gguf: Path, threads: Threads, *_: object, patience_s: float | None, **__: object) -> SpeedSample:
        assert (patience_s is None) == (threads.decode == 1)  # only the first has all the time it wants
        if threads.decode == 4:
            raise TimeoutError
        return sample(rates[threads.decode])

    monkeypatch.setattr(speed, "measure", pretend)
    candidates = [Threads(decode=count, prefill=4, waiting="PASSIVE") for count in (1, 2, 3, 4)]

    rates_found = trial_rates(Path("x"), candidates, QUESTIONS, new_tokens=4, context=64)

    assert rates_found == [30.0, 50.0, 40.0, 0.0]
    assert fastest(candidates, rates_found) == candidates[1]
    assert fastest(candidates, [50.0, 50.0, 0.0, 0.0]) == candidates[0]


def test_active_waiting_is_tried_on_an_idle_machine_only() -> None:
    assert candidate_threads(4, idle=True)[0] == candidate_threads(4, idle=False)[0] == default_threads(4)
    assert {threads.waiting for threads in candidate_threads(4, idle=False)} == {"PASSIVE"}
    assert Threads(decode=4, prefill=4, waiting="ACTIVE") in candidate_threads(4, idle=True)
    assert candidate_threads(1, idle=True) == [default_threads(1)]


@pytest.mark.parametrize(("percent", "idle"), [(0.0, True), (20.0, True), (30.0, False), (100.0, False)])
def test_a_machine_in_use_is_not_idle(monkeypatch: pytest.MonkeyPatch, percent: float, idle: bool) -> None:
    monkeypatch.setattr("psutil.cpu_percent", lambda interval: percent)

    assert speed.is_idle() is idle
