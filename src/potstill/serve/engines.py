"""Models in memory: loaded when first asked for, a few at a time, closed when nobody needs them.

In:  names, and what finds each one's GGUF.
Out: where a GGUF lies; engines on loan. One on loan is never closed.
Does not know: who asks, what is written.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from potstill.models.engine import Engine

Result = TypeVar("Result")

FAREWELL_S = 1.0
"""How long the end of a server waits for a model that is being loaded."""


@dataclass
class _Loaded:
    engine: Engine
    gguf: Path
    users: int = 0
    used: float = field(default_factory=time.monotonic)


class Engines:
    """At most `limit` engines; every call comes from one event loop, the slow work is done in threads.

    Args:
        models: name → what finds its GGUF, which may take long.
        open_engine: loads one.
        limit: engines in memory at once, those on loan included.
    """

    def __init__(
        self, models: Mapping[str, Callable[[], Path]], open_engine: Callable[[Path], Engine], limit: int
    ) -> None:
        self._models, self._open, self._limit = models, open_engine, limit
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()  # the one unused for longest stands first
        self._finding: dict[str, asyncio.Future[Path]] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._awaited: Counter[str] = Counter()  # who waits for a model: what has just been loaded for them is not idle
        self._one_at_a_time = asyncio.Lock()
        self._returned = asyncio.Event()

    @property
    def names(self) -> tuple[str, ...]:
        """Every model there is, in the order in which they are offered."""
        return tuple(self._models)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of those in memory, the one used last at the end."""
        return tuple(self._loaded)

    async def find(self, name: str) -> Path:
        """Where a model's GGUF lies, which may take long: it may have to be fetched, once for all who wait for it.

        Raises: whatever finding it raised, to all who wait for it.
        """
        if entry := self._loaded.get(name):
            return entry.gguf
        future = self._finding.get(name)
        if future is None:
            future = self._finding[name] = _in_thread(self._models[name])
            future.add_done_callback(lambda done: self._found(name, done))
        return await asyncio.shield(future)  # it goes on for the others when this one goes

    def stop_finding(self, why: Exception) -> None:
        """Raise `why` to all who wait in `find`; what is being fetched is left to itself."""
        for future in self._finding.values():
            if not future.done():
                future.set_exception(why)

    async def take(self, name: str, gguf: Path) -> Engine:
        """Borrow a model, loading it from what `find` found if need be; `give_back` it afterwards.

        Raises: whatever loading it raised, to all who wait for it.
        """
        self._awaited[name] += 1
        try:
            while name not in self._loaded:
                task = self._loading.get(name)
                if task is None:
                    task = self._loading[name] = asyncio.create_task(self._load(name, gguf))
                    task.add_done_callback(_look_at)
                await asyncio.shield(task)  # it goes on for the others when this one goes
            return self._lend(name)
        finally:
            self._awaited[name] -= 1
            self._returned.set()

    def take_if_loaded(self, name: str) -> Engine | None:
        """Borrow a model that is in memory; None where it isn't."""
        return self._lend(name) if name in self._loaded else None

    def give_back(self, name: str) -> None:
        """The end of a loan."""
        if entry := self._loaded.get(name):  # absent only where the server has ended meanwhile
            entry.users -= 1
            entry.used = time.monotonic()
            self._returned.set()

    async def close_unused(self, seconds: float) -> None:
        """Close what nobody has used for so long."""
        before = time.monotonic() - seconds
        for name in self.loaded:  # each is looked at when its turn comes: closing the one before takes its time
            if self._is_idle(name) and self._loaded[name].used <= before:
                await self._close(name)

    async def close(self) -> None:
        """Close everything; what is on loan ends its writing first."""
        if self._loading:
            await asyncio.wait(list(self._loading.values()), timeout=FAREWELL_S)
        for name in self.loaded:
            await self._close(name)

    def _is_idle(self, name: str) -> bool:
        return name in self._loaded and not self._loaded[name].users and not self._awaited[name]

    def _lend(self, name: str) -> Engine:
        entry = self._loaded[name]
        entry.users += 1
        self._loaded.move_to_end(name)
        return entry.engine

    def _found(self, name: str, done: asyncio.Future[Path]) -> None:
        del self._finding[name]  # found anew the next time: a file may have gone meanwhile
        _look_at(done)

    async def _load(self, name: str, gguf: Path) -> None:
        try:
            async with self._one_at_a_time:
                await self._make_room()
                self._loaded[name] = _Loaded(await _in_thread(lambda: self._open(gguf)), gguf)
        finally:
            del self._loading[name]

    async def _make_room(self) -> None:
        while len(self._loaded) >= self._limit:
            if idle := [name for name in self._loaded if self._is_idle(name)]:
                await self._close(idle[0])
            else:
                self._returned.clear()
                await self._returned.wait()

    async def _close(self, name: str) -> None:
        entry = self._loaded.pop(name, None)
        if entry is not None:
            await asyncio.to_thread(entry.engine.close)


def _in_thread(work: Callable[[], Result]) -> asyncio.Future[Result]:
    """Run `work` in a thread that the end of the process does not wait for: it may be fetching a model."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.done():  # nobody waits any more
            if isinstance(result, Engine):
                result.close()
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(Result, result))

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as failure:
            error = failure
        with suppress(RuntimeError):  # the loop has ended meanwhile; an engine is closed at exit
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="potstill-load", daemon=True).start()
    return future


def _look_at(done: asyncio.Future[Any]) -> None:
    """So that asyncio does not complain where everybody who waited has gone."""
    if not done.cancelled():
        done.exception()
