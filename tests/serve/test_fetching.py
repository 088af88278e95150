"""Who waits for a model that is still being fetched: no turn is taken, nobody else waits, nothing stays behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from loops import in_a_loop

from potstill.models.engine import Sampling
from potstill.problem import Problem
from potstill.serve.errors import ApiError
from potstill.serve.metrics import Metrics
from potstill.serve.pool import Order, Pool
from potstill.serve.settings import Settings

Finders = dict[str, Callable[[], Path]]
SAMPLING = Sampling(temperature=0, top_p=1, top_k=0, seed=1, max_tokens=4, repeat_penalty=1)


@contextmanager
def far_teacher(models: Finders) -> Iterator[tuple[Finders, threading.Event]]:
    """The same models, and a teacher that is found when the event is set."""
    found = threading.Event()

    def find() -> Path:
        found.wait(20)
        return models["student-Q8_0"]()

    try:
        yield {**models, "teacher": find}, found
    finally:
        found.set()


async def ask(pool: Pool, model: str, client: str = "me") -> int:
    """Tokens of the answer."""
    async with pool.answer(Order(model, [{"role": "user", "content": "hello there"}], SAMPLING), client) as answer:
        async for _ in answer:
            pass
        return answer.reply.tokens


async def ask_for_the_teacher(pool: Pool, clients: str) -> list[asyncio.Task[int]]:
    """One request of each, all of them waiting for the file."""
    before = pool.waiting
    tasks = [asyncio.create_task(ask(pool, "teacher", client)) for client in clients]
    while pool.waiting < before + len(clients):
        await asyncio.sleep(0.001)
    return tasks


def test_a_model_that_is_being_fetched_holds_up_no_other(tiny_models: Finders) -> None:
    @in_a_loop
    async def test() -> None:
        with far_teacher(tiny_models) as (models, found):
            pool = Pool(models, Settings(context=128, slots=2, queue=1), Metrics())
            waiting = await ask_for_the_teacher(pool, "ab")

            assert await ask(pool, "student", "c") == 4
            assert not any(task.done() for task in waiting)
            found.set()
            assert await asyncio.gather(*waiting) == [4, 4]
            assert pool.loaded == ("student", "teacher")
            await pool.close()

    test()


def test_who_leaves_while_a_model_is_fetched_leaves_nothing_behind(tiny_models: Finders) -> None:
    @in_a_loop
    async def test() -> None:
        with far_teacher(tiny_models) as (models, found):
            pool = Pool(models, Settings(context=128, slots=1, queue=1), Metrics())
            gone, stays = await ask_for_the_teacher(pool, "ab")
            gone.cancel()
            await asyncio.wait({gone})
            assert (gone.cancelled(), pool.waiting, pool.running) == (True, 1, 0)
            stays.cancel()
            await asyncio.wait({stays})
            found.set()

            assert await ask(pool, "student") == 4
            while pool.running:
                await asyncio.sleep(0.001)
            assert (pool.waiting, pool.loaded) == (0, ("student",))
            await pool.close()

    test()


def test_no_more_wait_for_a_file_than_have_room_afterwards(tiny_models: Finders) -> None:
    @in_a_loop
    async def test() -> None:
        with far_teacher(tiny_models) as (models, found):
            pool = Pool(models, Settings(context=128, slots=1, queue=1), Metrics())
            waiting = await ask_for_the_teacher(pool, "ab")

            with pytest.raises(ApiError, match="Too many") as caught:
                await ask(pool, "teacher", "c")
            assert (caught.value.status, caught.value.code) == (503, "queue_full")
            assert int(caught.value.headers["Retry-After"]) >= 1
            assert await ask(pool, "student", "c") == 4
            found.set()
            assert await asyncio.gather(*waiting) == [4, 4]
            await pool.close()

    test()


def test_a_fetch_that_fails_is_503_for_all_who_wait_and_may_succeed_later(tiny_models: Finders) -> None:
    @in_a_loop
    async def test() -> None:
        problems = [Problem("no network", "connect")]
        with far_teacher(tiny_models) as (models, found):

            def fetch() -> Path:
                found.wait(20)
                if problems:
                    raise problems.pop()
                return models["student"]()

            pool = Pool({**models, "teacher": fetch}, Settings(context=128), Metrics())
            waiting = await ask_for_the_teacher(pool, "ab")
            found.set()
            refused = await asyncio.gather(*waiting, return_exceptions=True)
            told = [(one.status, one.code, "network" in one.message) for one in refused if isinstance(one, ApiError)]

            assert told == [(503, "model_unavailable", False)] * 2
            assert (pool.waiting, pool.running) == (0, 0)
            assert await ask(pool, "teacher") == 4
            await pool.close()

    test()


def test_the_end_of_the_server_sends_away_who_waits_for_a_file(tiny_models: Finders) -> None:
    @in_a_loop
    async def test() -> None:
        with far_teacher(tiny_models) as (models, _):
            pool = Pool(models, Settings(context=128), Metrics())
            waiting = await ask_for_the_teacher(pool, "ab")
            await pool.close()

            for task in waiting:
                with pytest.raises(ApiError, match="stopping"):
                    await task

    test()
