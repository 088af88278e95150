"""Turns are fair, models come and go, nothing is held by who has left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from tiny_server import Start, wait_until

import potstill
from potstill.models import completion
from potstill.models.engine import NOTHING_MORE, Engine, Sampling, default_threads
from potstill.problem import Problem
from potstill.serve.engines import Engines
from potstill.serve.errors import ApiError
from potstill.serve.metrics import Metrics
from potstill.serve.pool import Order, Pool
from potstill.serve.settings import Settings
from potstill.serve.turns import QueueClosed, QueueFull, Turns

LONG: dict[str, Any] = {
    "model": "student",
    "messages": [{"role": "user", "content": "hello there"}],
    "temperature": 0,
    "max_tokens": 200,
}
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SHORT = LONG | {"max_tokens": 3}


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    run.__name__ = test.__name__
    return run


async def queue_up(turns: Turns, clients: str) -> tuple[list[str], list[asyncio.Task[None]]]:
    """One request after the other, each named by a letter; the list fills up in the order of their turns."""
    served: list[str] = []

    async def ask(client: str) -> None:
        await turns.enter(client)
        served.append(client)

    tasks = []
    for client in clients:
        tasks.append(asyncio.create_task(ask(client)))
        await asyncio.sleep(0)
    return served, tasks


@in_a_loop
async def test_clients_take_turns_however_many_requests_one_has() -> None:
    turns = Turns(slots=1, limit=10)
    served, _ = await queue_up(turns, "aaaabbc")

    for _ in range(6):
        turns.leave(1.0)
        await asyncio.sleep(0)

    assert "".join(served) == "aabcaba"


@in_a_loop
async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    turns = Turns(slots=2, limit=2)
    await queue_up(turns, "abcd")

    with pytest.raises(QueueFull) as caught:
        await turns.enter("e")

    assert 1 <= caught.value.retry_after_s <= 60
    assert (turns.running, turns.waiting) == (2, 2)


@in_a_loop
async def test_a_crowd_gives_way_to_a_newcomer() -> None:
    turns = Turns(slots=1, limit=3)
    served, tasks = await queue_up(turns, "aaaab")

    await asyncio.sleep(0)
    assert isinstance(tasks[3].exception(), QueueFull)  # the crowd's latest
    with pytest.raises(QueueFull):
        await turns.enter("a")
    for _ in range(3):
        turns.leave(1.0)
        await asyncio.sleep(0)
    assert "".join(served) == "aaba"


@in_a_loop
async def test_who_goes_while_waiting_leaves_no_gap() -> None:
    turns = Turns(slots=1, limit=5)
    served, tasks = await queue_up(turns, "abc")

    tasks[1].cancel()
    await asyncio.sleep(0)
    assert turns.waiting == 1
    turns.leave(1.0)
    await asyncio.sleep(0)

    assert served == ["a", "c"]


@in_a_loop
async def test_a_turn_that_comes_in_the_moment_of_going_is_handed_on() -> None:
    turns = Turns(slots=1, limit=5)
    served, tasks = await queue_up(turns, "abc")

    turns.leave(1.0)  # now it is b's
    tasks[1].cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert served == ["a", "c"]
    turns.leave(1.0)
    assert turns.running == 0


@in_a_loop
async def test_a_closed_queue_sends_everybody_away() -> None:
    turns = Turns(slots=1, limit=5)
    _, tasks = await queue_up(turns, "abc")

    turns.close()
    await asyncio.sleep(0)

    assert all(isinstance(task.exception(), QueueClosed) for task in tasks[1:])
    with pytest.raises(QueueClosed):
        await turns.enter("d")


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
        await engines.take(name)
        engines.give_back(name)

    assert names_of(opened) == "abc"
    assert names_of([engine for engine in opened if engine.closed]) == "b"
    assert engines.loaded == ("a", "c")


@in_a_loop
async def test_a_model_on_loan_is_never_closed() -> None:
    engines, opened = fake_engines()
    await engines.take("a")
    await engines.take("b")
    third = asyncio.create_task(engines.take("c"))
    await asyncio.sleep(0.05)

    assert not third.done()
    assert not any(engine.closed for engine in opened)
    engines.give_back("b")
    await third
    assert names_of([engine for engine in opened if engine.closed]) == "b"


@in_a_loop
async def test_a_model_is_loaded_once_for_all_who_wait_for_it() -> None:
    engines, opened = fake_engines()

    tasks = [asyncio.create_task(engines.take("a")) for _ in range(5)]
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
        await engines.take(name)
        await asyncio.sleep(0.01)
        engines.give_back(name)

    await asyncio.wait_for(asyncio.gather(use("a"), use("b"), use("a")), 10)

    assert sorted(names_of(opened)) in (["a", "b"], ["a", "a", "b"])  # the third may come when "a" has made room
    assert [engine.closed for engine in opened[:-1]] == [True] * (len(opened) - 1)


@in_a_loop
async def test_whoever_asked_and_went_keeps_nothing_loaded() -> None:
    engines, opened = fake_engines(limit=1)
    gone = asyncio.create_task(engines.take("a"))
    await asyncio.sleep(0)
    gone.cancel()

    await asyncio.wait_for(engines.take("b"), 10)

    assert engines.loaded == ("b",) and names_of(opened) == "ab"


@in_a_loop
async def test_what_is_borrowed_while_another_is_closed_stays_open() -> None:
    engines, opened = fake_engines()
    for name in "ab":
        await engines.take(name)
        engines.give_back(name)
    closing = opened[0].close
    opened[0].close = lambda: (time.sleep(0.1), closing())  # type: ignore[method-assign]

    cleaning = asyncio.create_task(engines.close_unused(0))
    await asyncio.sleep(0.02)
    borrowed = await engines.take("b")
    await cleaning

    assert borrowed is opened[1] and [engine.closed for engine in opened] == [True, False]


@in_a_loop
async def test_a_model_that_has_to_be_fetched_holds_up_no_other() -> None:
    fetched = threading.Event()

    def fetch() -> Path:
        fetched.wait(10)
        return Path("far")

    engines = Engines({"far": fetch, "near": lambda: Path("near")}, FakeEngine, 2)  # type: ignore[arg-type]
    far = asyncio.create_task(engines.take("far"))
    await engines.take("near")

    assert not far.done()
    fetched.set()
    await far


@in_a_loop
async def test_a_model_that_cannot_be_loaded_can_be_asked_for_again() -> None:
    failures = iter([Problem("It is out of reach", "Plug it in.")])

    def find() -> Path:
        for problem in failures:
            raise problem
        return Path("a")

    engines = Engines({"a": find}, FakeEngine, 1)  # type: ignore[arg-type]
    with pytest.raises(Problem, match="out of reach"):
        await engines.take("a")

    assert str((await engines.take("a")).gguf) == "a"


@in_a_loop
async def test_what_nobody_uses_is_closed_after_a_while() -> None:
    engines, opened = fake_engines()
    await engines.take("a")
    await engines.take("b")
    engines.give_back("b")

    await engines.close_unused(60)
    assert engines.loaded == ("a", "b")
    await engines.close_unused(0)

    assert engines.loaded == ("a",)
    assert [engine.closed for engine in opened] == [False, True]


def test_a_pool_answers_without_http(tiny_models: dict[str, Callable[[], Path]]) -> None:
    sampling = Sampling(temperature=0, top_p=1, top_k=0, seed=1, max_tokens=12, repeat_penalty=1)

    async def ask() -> None:
        pool = Pool(tiny_models, Settings(context=128), Metrics())
        order = Order("student", LONG["messages"], sampling)
        async with pool.answer(order, "me") as answer:
            pieces = [piece.text async for piece in answer]
        assert "".join(pieces) == answer.reply.text
        assert answer.reply.tokens == 12
        async with pool.answer(order, "me") as left:
            async for _ in left:
                break
        while pool.running:
            await asyncio.sleep(0.01)
        with pytest.raises(ApiError) as caught:
            async with pool.answer(Order("gpt-5", "x", sampling), "me"):
                pass
        assert caught.value.status == 404
        await pool.close()
        assert pool.loaded == ()

    asyncio.run(asyncio.wait_for(ask(), 20))


def test_the_context_is_at_most_what_the_model_was_trained_for(start: Start) -> None:
    server = start(context=100_000)

    with pytest.raises(openai.BadRequestError, match="511"):
        server.client().chat.completions.create(**SHORT | {"messages": [{"role": "user", "content": "你好" * 1000}]})


def test_two_models_at_once_and_a_third_makes_room(start: Start, tiny_ggufs: dict[str, Path]) -> None:
    names = ("one", "two", "three")
    server = start({name: lambda: tiny_ggufs["F16"] for name in names})
    answers = [server.client().chat.completions.create(**SHORT | {"model": name}) for name in names]

    assert len({answer.choices[0].message.content for answer in answers}) == 1
    assert server.pool.loaded == ("two", "three")


def test_a_model_is_closed_when_nobody_asks_for_it(start: Start) -> None:
    server = start(idle_close_s=0.2)
    server.client().chat.completions.create(**SHORT)
    wait_until(lambda: server.pool.loaded == ())

    assert server.client().chat.completions.create(**SHORT).usage.completion_tokens == 3


def test_a_model_that_cannot_be_loaded_is_503_and_no_more_is_said(start: Start, tmp_path: Path) -> None:
    server = start({"student": lambda: tmp_path / "missing.gguf"})
    response = requests.post(f"{server.url}v1/chat/completions", json=SHORT, timeout=20)

    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_unavailable")
    assert str(tmp_path) not in response.text
    assert server.pool.running == 0


SERVING = """
import sys
from pathlib import Path
from potstill.serve import Settings, serve
serve(Path(sys.argv[1]), Settings(port=0), say=lambda line: print(line, flush=True))
print("ended", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_it_cleanly_in_the_middle_of_an_answer(tiny_gguf: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(potstill.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVING, str(tiny_gguf)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().split()[2]
        request = LONG | {"model": tiny_gguf.stem, "stream": True, "max_tokens": 500}
        with requests.post(f"{url}v1/chat/completions", json=request, stream=True, timeout=20) as response:
            next(response.iter_content(10))
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=20)
    finally:
        process.kill()

    assert (process.returncode, out) == (0, "ended\n")
    assert "Traceback" not in errors


def test_an_answer_can_be_stopped_while_its_prompt_is_read(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = Sampling(temperature=0, top_p=1, top_k=0, seed=1, max_tokens=5, repeat_penalty=1)
    events: list[dict[str, Any]] = []
    take = completion.Answer.take
    with Engine(tiny_gguf, context=512, slots=1, threads=default_threads(1), stride=32) as engine:
        ids = engine.text_ids("hello there " * 60)[:400]

        def stop_at_the_third(self: completion.Answer, event: dict[str, Any]) -> bool:
            events.append(event)
            return take(self, event) or len(events) == 3

        monkeypatch.setattr(completion.Answer, "take", stop_at_the_third)
        with pytest.raises(RuntimeError, match="stopped"):
            engine.write(ids, sampling, NOTHING_MORE, lambda piece: None).future.result()
        monkeypatch.undo()

        assert [event["prompt_progress"]["processed"] for event in events] == [0, 32, 64]
        assert engine.write(ids, sampling, NOTHING_MORE, lambda piece: None).future.result().tokens == 5
