"""The soak: what it counts, when memory grows, and the fault that it was made for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import potstill
from potstill import soak as module
from potstill.models import engine as engine_module
from potstill.problem import Problem
from potstill.progress import Silent
from potstill.soak import SoakReport, fit_slope, soak

QUESTIONS = ["你好", "怎么煮米饭？", "1+1", "Please write a short summary.", "def add(first, second):"]


def noisy(n: int, slope: float, noise: float, seed: int, together: int = 1) -> list[float]:
    """A made-up series: a line, and noise of which `together` samples in a row share one value."""
    draw = np.random.default_rng(seed)
    return list(150 + slope * np.arange(n) + np.repeat(draw.normal(0, noise, n // together + 1), together)[:n])


@pytest.mark.parametrize("together", [1, 5])
def test_flat_noise_has_an_interval_with_zero_in_it(together: int) -> None:
    slopes = [fit_slope(noisy(400, 0.0, 2.0, seed, together), seed) for seed in range(40)]

    with_zero = sum(slope.low <= 0 <= slope.high for slope in slopes if slope)
    assert with_zero >= 32  # 95 % are promised, blocks give a little less


def test_a_leak_of_a_megabyte_a_conversation_is_seen() -> None:
    for seed in range(10):
        slope = fit_slope(noisy(60, 1.0, 2.0, seed, 3), seed)
        assert slope and slope.grows and slope.value == pytest.approx(1, abs=0.3)


def test_a_small_leak_is_seen_in_a_long_soak() -> None:
    slope = fit_slope(noisy(4000, 0.01, 2.0, 0, 5), 0)
    assert slope and slope.grows and slope.value == pytest.approx(0.01, rel=0.1)


def test_memory_that_never_moves_does_not_grow() -> None:
    slope = fit_slope([150.0] * 100, 0)
    assert slope and (slope.value, slope.low, slope.high) == (0, 0, 0) and not slope.grows


def test_what_a_sure_slope_comes_to_over_the_published_use_decides() -> None:
    hours = np.arange(400.0) / (module.PUBLISHED_HOURS * module.CONVERSATIONS_AN_HOUR)
    for megabytes, grows in ((0.05, False), (0.2, True)):
        slope = fit_slope(150 + megabytes * hours, 0)
        assert slope and slope.low > 0 and slope.grows == grows


def test_growth_while_warming_up_does_not_count() -> None:
    slope = fit_slope([*np.linspace(80, 150, 200), *noisy(200, 0.0, 0.5, 1)], 0)
    assert slope and not slope.grows


def test_too_few_conversations_say_nothing() -> None:
    assert fit_slope([1.0] * 14, 0) is None
    assert fit_slope([1.0] * 16, 0) is not None


def test_conversations_are_held_and_counted(tiny_gguf: Path) -> None:
    report = soak(tiny_gguf, 1.0, Silent(), questions=QUESTIONS, context=96, max_tokens=12, seed=3, most=30)

    assert (report.conversations, len(report.memory_mb), report.failures) == (30, 30, 0)
    assert 30 <= report.turns <= 120
    assert report.broken_off > 0
    assert report.slope is not None
    assert 0 < min(report.memory_mb) <= max(report.memory_mb) <= report.peak_mb + 1
    text = json.dumps(report.to_json())
    assert json.loads(text)["published_hours"] == 0.5
    assert json.loads(text)["growth_published_mb"] == pytest.approx(4320 * report.slope.high)
    assert "0.5 hours of the published 72" in "\n".join(report.lines()) and "4,320" in "\n".join(report.lines())


def test_it_ends_when_the_time_is_over(tiny_gguf: Path) -> None:
    report = soak(tiny_gguf, 0.2 / 3600, Silent(), questions=QUESTIONS, context=96, max_tokens=8)

    assert report.conversations >= 1
    assert report.seconds >= 0.2


def test_the_same_seed_asks_the_same(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    original = module.Conversation.ask
    monkeypatch.setattr(
        module.Conversation,
        "ask",
        lambda self, question, write: asked.append(question) or original(self, question, write),
    )
    for seed in (1, 1, 2):
        soak(tiny_gguf, 1.0, Silent(), questions=QUESTIONS, context=96, max_tokens=6, seed=seed, most=6)
        asked.append("|")
    first, second, third, _ = "\n".join(asked).split("|")
    assert first.strip() == second.strip() != third.strip()


def test_failures_are_counted_and_do_not_end_it(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = engine_module.Engine._complete
    calls = iter(range(1000))

    def sometimes(self: engine_module.Engine, *arguments: object) -> object:
        if next(calls) % 3 == 1:
            raise RuntimeError("llama.cpp wrote no answer: made up")
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(engine_module.Engine, "_complete", sometimes)
    report = soak(tiny_gguf, 1.0, Silent(), questions=QUESTIONS, context=96, max_tokens=6, most=20)

    assert report.conversations == 20
    assert report.failures >= 5 and not report.steady
    assert "made up" in report.failed[0] and any("made up" in line for line in report.lines())


def test_questions_that_cannot_fit_are_not_asked(tiny_gguf: Path) -> None:
    report = soak(tiny_gguf, 1.0, Silent(), questions=["你好", "好" * 400], context=64, max_tokens=4, most=10)
    assert report.failures == 0
    with pytest.raises(Problem, match="no question fits"):
        soak(tiny_gguf, 1.0, Silent(), questions=["好" * 400], context=64, most=1)


def test_no_time_is_a_problem(tiny_gguf: Path) -> None:
    with pytest.raises(Problem, match="no time"):
        soak(tiny_gguf, 0, Silent())
    with pytest.raises(Problem, match="no time"):
        soak(tiny_gguf, float("inf"), Silent())


def test_ctrl_c_keeps_what_was_seen(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = [100.0, 101.0]

    def answers() -> float:
        if not memory:
            raise KeyboardInterrupt
        return memory.pop(0)

    monkeypatch.setattr(module, "resident_memory_mb", answers)
    report = soak(tiny_gguf, 1.0, Silent(), questions=QUESTIONS, context=96, max_tokens=4)
    assert (report.conversations, report.memory_mb.tolist()) == (3, [100.0, 101.0])


def test_a_report_without_a_slope_is_not_called_steady() -> None:
    assert not SoakReport("a.gguf", 512, 0).steady
    assert "too few" in SoakReport("a.gguf", 512, 0).lines()[-1]


@pytest.mark.parametrize(
    ("grows", "steady"), [((), True), (("memory_mb",), True), (("in_use_mb",), False), (("blocks",), False)]
)
def test_what_is_in_use_decides_not_what_the_allocator_keeps(grows: tuple[str, ...], steady: bool) -> None:
    report = SoakReport("a.gguf", 512, 0)
    for name in ("memory_mb", "in_use_mb", "blocks"):
        series = noisy(200, 1.0 if name in grows else 0.0, 2.0, 3, 2)
        getattr(report, name).extend(map(int, series) if name == "blocks" else series)
    report.fit()
    assert report.steady is steady
    assert sum("it grows" in line for line in report.lines()) == len(grows)


def test_where_the_heap_is_not_told_resident_memory_decides() -> None:
    report = SoakReport("a.gguf", 512, 0)
    report.memory_mb.extend(noisy(200, 1.0, 2.0, 3, 2))
    report.blocks.extend([1000] * 200)
    report.fit()
    assert report.leak is None and not report.steady


SCRIPT = """
import sys
from pathlib import Path
from potstill.machine import resident_memory_mb
from potstill.models.engine import Engine, Sampling, Threads
faulty = sys.argv[2] == "faulty"

class Tried(Engine):
    def _parameters(self, package):
        parameters = super()._parameters(package)
        print(parameters.cache_ram_mib, parameters.n_ctx_checkpoints)
        if faulty:
            parameters.cache_ram_mib, parameters.cache_prompt, parameters.cache_idle_slots = 8192, True, True
        return parameters
    def _request(self, *arguments, **named):
        return super()._request(*arguments, **named) | {"cache_prompt": faulty}

with Tried(Path(sys.argv[1]), context=512, slots=1, threads=Threads(1, 1, "PASSIVE")) as engine:
    sampling = Sampling(temperature=0.0, top_p=1.0, top_k=0, seed=1, max_tokens=2, repeat_penalty=1.0)
    memory = []
    for number in range(80):
        engine.reply([{"role": "user", "content": f"{number} " + "0123456789"[number % 10:] * 40}], sampling)
        memory.append(resident_memory_mb())
print(memory[-1] - memory[19])
"""


def growth(gguf: Path, kind: str) -> tuple[list[str], float]:
    """The parameters as the engine set them, and megabytes gained by 60 different prompts after 20."""
    environment = {**os.environ, "PYTHONPATH": str(Path(potstill.__file__).parents[1])}
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(gguf), kind],
        capture_output=True, text=True, env=environment, timeout=120, check=True,
    )  # fmt: skip
    first, last = finished.stdout.split("\n")[:2]
    return first.split(), float(last)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_no_cache_of_prompts_is_left_on(tiny_gguf: Path) -> None:
    """llama.cpp keeps up to 8 GB of old prompts unless told otherwise."""
    layers, kv_values, bytes_each = 4, 2 * 2 * 16, 2
    whole_context_mb = 512 * layers * kv_values * bytes_each / 1e6

    set_by_engine, grown = growth(tiny_gguf, "sound")

    assert set_by_engine == ["0", "0"]
    bound_mb = 8 * whole_context_mb
    assert grown < bound_mb
    assert growth(tiny_gguf, "faulty")[1] > 2 * bound_mb  # what this test would have seen
