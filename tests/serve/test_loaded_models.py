"""Models come and go: found and loaded once for all who wait, never closed under somebody who writes."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from loops import in_a_loop

from potstill.problem import Problem
from potstill.serve.engines import Engines


class FakeEngine:
    """Only opens and closes."""

    def __init__(self, gguf: Path) -> None:
        self.gguf, self.closed = gguf, False

    def close(self) -> None:
        self.closed = True


def fake_engines(limit: int = 2, names: str = "abcd") -> tuple[Engines, list[FakeEngine]]:
    opened: list[FakeEngine] = []

    def open_engine(gguf: Path) -> Any:
        opened.append(FakeEngine(gguf))
        return opened[-1]

    return Engines({name: lambda name=name: Path(name) for name in names}, open_engine, limit), opened


def names_of(engines: list[FakeEngine]) -> str:
    return "".join(str(engine.gguf) for engine in engines)


@in_a_loop
async def test_the_model_unused_for_longest_makes_room() -> None:
    engines, opened = fake_engines()
    for name in "abac":
        await engines.take(name, Path(name))
        engines.give_back(name)

    assert names_of(opened) == "abc"
    assert names_of([engine for engine in opened if engine.closed]) == "b"
    assert engines.loaded == ("a", "c")


@in_a_loop
async def test_a_model_on_loan_is_never_closed() -> None:
    engines, opened = fake_engines()
    await engines.take("a", Path("a"))
    await engines.take("b", Path("b"))
    third = asyncio.create_task(engines.take("c", Path("c")))
    await asyncio.sleep(0.05)

    assert not third.done()
    assert not any(engine.closed for engine in opened)
    engines.give_back("b")
    await third
    assert names_of([engine for engine in opened if engine.closed]) == "b"


@in_a_loop
async def test_a_model_is_loaded_once_for_all_who_wait_for_it() -> None:
    engines, opened = fake_engines()

    tasks = [asyncio.create_task(engines.take("a", Path("a"))) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()  # who asked first goes; the others still get it
    await asyncio.sleep(0)
    got = await asyncio.gather(*tasks[1:])

    assert len(opened) == 1
    assert set(got) == set(opened)


@in_a_loop
async def test_two_cold_models_take_turns_in_a_single_place() -> None:
    engines, opened = fake_engines(limit=1)

    async def use(name: str) -> None:
        await engines.take(name, Path(name))
        await asyncio.sleep(0.01)
        engines.give_back(name)

    await asyncio.wait_for(asyncio.gather(use("a"), use("b"), use("a")), 10)

    assert sorted(names_of(opened)) in (["a", "b"], ["a", "a", "b"])  # the third may come when "a" has made room
    assert [engine.closed for engine in opened[:-1]] == [True] * (len(opened) - 1)


@in_a_loop
async def test_whoever_asked_and_went_keeps_nothing_loaded() -> None:
    engines, opened = fake_engines(limit=1)
    gone = asyncio.create_task(engines.take("a", Path("a")))
    await asyncio.sleep(0)
    gone.cancel()

    await asyncio.wait_for(engines.take("b", Path("b")), 10)

    assert engines.loaded == ("b",) and names_of(opened) == "ab"


@in_a_loop
async def test_what_is_borrowed_while_another_is_closed_stays_open() -> None:
    engines, opened = fake_engines()
    for name in "ab":
        await engines.take(name, Path(name))
        engines.give_back(name)
    closing = opened[0].close
    opened[0].close = lambda: (time.sleep(0.1), closing())  # type: ignore[method-assign]

    cleaning = asyncio.create_task(engines.close_unused(0))
    await asyncio.sleep(0.02)
    borrowed = await engines.take("b", Path("b"))
    await cleaning

    assert borrowed is opened[1] and [engine.closed for engine in opened] == [True, False]


@in_a_loop
async def test_a_file_is_found_once_for_all_who_wait_for_it() -> None:
    found, asked = threading.Event(), []

    def find() -> Path:
        asked.append(1)
        found.wait(10)
        return Path("far")

    engines = Engines({"far": find, "near": lambda: Path("near")}, FakeEngine, 2)  # type: ignore[arg-type]
    tasks = [asyncio.create_task(engines.find("far")) for _ in range(3)]
    assert await engines.find("near") == Path("near")
    tasks[0].cancel()  # who asked first goes; the others still get it
    await asyncio.sleep(0)
    found.set()

    assert await asyncio.gather(*tasks[1:]) == [Path("far")] * 2
    assert len(asked) == 1


@in_a_loop
async def test_what_is_loaded_needs_no_finding() -> None:
    engines, _ = fake_engines(names="")
    await engines.take("a", Path("a"))

    assert await engines.find("a") == Path("a")


@in_a_loop
async def test_a_model_that_cannot_be_found_or_loaded_can_be_asked_for_again() -> None:
    failures = [Problem("It is out of reach", "Plug it in."), Problem("It is damaged", "Mend it.")]

    def find() -> Path:
        if len(failures) == 2:
            raise failures.pop(0)
        return Path("a")

    def open_engine(gguf: Path) -> Any:
        if failures:
            raise failures.pop()
        return FakeEngine(gguf)

    engines = Engines({"a": find}, open_engine, 1)
    with pytest.raises(Problem, match="out of reach"):
        await engines.find("a")
    gguf = await engines.find("a")
    with pytest.raises(Problem, match="damaged"):
        await engines.take("a", gguf)

    assert (await engines.take("a", gguf)).gguf == Path("a")


@in_a_loop
async def test_what_nobody_uses_is_closed_after_a_while() -> None:
    engines, opened = fake_engines()
    await engines.take("a", Path("a"))
    await engines.take("b", Path("b"))
    engines.give_back("b")

    await engines.close_unused(60)
    assert engines.loaded == ("a", "b")
    await engines.close_unused(0)

    assert engines.loaded == ("a",)
    assert [engine.closed for engine in opened] == [False, True]
