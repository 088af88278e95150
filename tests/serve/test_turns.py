"""Turns are fair, and who has left holds none."""

from __future__ import annotations

import asyncio

import pytest
from loops import in_a_loop

from potstill.serve.turns import QueueClosed, QueueFull, Turns


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
