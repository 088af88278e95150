"""Turns: a few at a time, the others wait, and no client waits because of another's crowd.

In:  clients' names.
Out: turns, one client after the other; a refusal where too many wait.
Does not know: models, HTTP, what a turn is used for.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

LONGEST_RETRY_S = 60
_FIRST_GUESS_S = 5.0
_KEPT = 0.9
"""Share of the old mean duration that stays when a turn ends."""

Ticket = asyncio.Future[None]


class QueueFull(Exception):
    """Too many wait already.

    Args:
        retry_after_s: when it is worth asking again.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full, ask again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class QueueClosed(Exception):
    """Nobody gets a turn any more."""


class Turns:
    """At most `slots` turns at once, at most `limit` waiting; every call comes from one event loop.

    Clients are served in rotation, each client's own requests in their order. Where the queue is full, a client
    that has two more waiting than the newcomer loses its latest one to it.
    """

    def __init__(self, slots: int, limit: int) -> None:
        self._free, self._slots, self._limit = slots, slots, limit
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._mean_s = _FIRST_GUESS_S
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(tickets) for tickets in self._waiting.values())

    @property
    def running(self) -> int:
        """How many turns are taken."""
        return self._slots - self._free

    def check_room(self, client: str) -> None:
        """Raises: QueueFull or QueueClosed where `enter` would now refuse this client."""
        if self._closed:
            raise QueueClosed
        if not self._free and self.waiting >= self._limit and self._crowd(client) is None:
            raise QueueFull(self._retry_after_s())

    async def enter(self, client: str) -> None:
        """Wait for a turn; who got one must `leave`.

        Raises: QueueFull at once, or later where another client's request took the place; QueueClosed.
        """
        self.check_room(client)
        if self._free:
            self._free -= 1
            return
        if self.waiting >= self._limit:
            self._displace(client)
        ticket: Ticket = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(ticket)
        try:
            await ticket
        except asyncio.CancelledError:
            if ticket.cancelled():
                self._forget(client, ticket)
            elif ticket.exception() is None:
                self._hand_on()  # the turn came in the moment in which its client went
            raise

    def leave(self, seconds: float) -> None:
        """Give a turn back that took `seconds`."""
        self._mean_s = _KEPT * self._mean_s + (1 - _KEPT) * seconds
        self._hand_on()

    def close(self) -> None:
        """Send everybody away who waits."""
        self._closed = True
        for tickets in self._waiting.values():
            for ticket in tickets:
                if not ticket.done():
                    ticket.set_exception(QueueClosed())
        self._waiting.clear()

    def _hand_on(self) -> None:
        while self._waiting:
            client, tickets = self._waiting.popitem(last=False)
            ticket = tickets.popleft()
            if tickets:
                self._waiting[client] = tickets  # at the end: the others first
            if not ticket.done():
                ticket.set_result(None)
                return
        self._free += 1

    def _displace(self, newcomer: str) -> None:
        client = self._crowd(newcomer)
        assert client is not None
        ticket = self._waiting[client].pop()
        if not ticket.done():
            ticket.set_exception(QueueFull(self._retry_after_s()))

    def _crowd(self, newcomer: str) -> str | None:
        """The client with most waiting, if it has at least two more than the newcomer."""
        if not self._waiting:
            return None
        client = max(self._waiting, key=lambda name: len(self._waiting[name]))
        ahead = len(self._waiting[client]) - len(self._waiting.get(newcomer, ()))
        return client if ahead > 1 else None

    def _forget(self, client: str, ticket: Ticket) -> None:
        tickets = self._waiting.get(client)
        if tickets and ticket in tickets:
            tickets.remove(ticket)
            if not tickets:
                del self._waiting[client]

    def _retry_after_s(self) -> int:
        seconds = self._mean_s * (self.waiting + 1) / self._slots
        return max(1, min(LONGEST_RETRY_S, round(seconds)))
