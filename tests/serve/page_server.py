"""The real server with scripted models: what tests of pages and ratings talk to.

In:  names of models and what each answers; settings.
Out: an application, or a running server's address; a log of what was asked.
Does not know: llama.cpp, GGUFs.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fastapi import FastAPI

from potstill.models.completion import Piece, Reply
from potstill.serve import app as application
from potstill.serve.errors import ApiError
from potstill.serve.pool import Order
from potstill.serve.server import Server, address_of, open_port
from potstill.serve.settings import Settings

Script = Callable[[str], str]
"""What a model answers to the last message."""
QUESTIONS = [f"Question {place}?" for place in range(1, 11)]


class ScriptedAnswer:
    """Looks like `pool.Answer`: pieces of a few characters, then a reply."""

    def __init__(self, order: Order, text: str, pool: ScriptedPool) -> None:
        self.model, self.waited_s, self.first_text_s = order.model, 0.0, 0.01
        self._text, self._pool = text, pool
        self.finished = False

    @property
    def reply(self) -> Reply:
        assert self.finished
        tokens = -(-len(self._text) // 3)
        return Reply(self._text, "stop", prompt_tokens=7, tokens=tokens, first_token_s=0.01, seconds=0.51, arrivals=())

    async def __aiter__(self) -> AsyncIterator[Piece]:
        for place in range(0, len(self._text), 3):
            await asyncio.sleep(self._pool.pause_s)
            yield Piece(self._text[place : place + 3], (), 0.0)
        self.finished = True


class ScriptedPool:
    """Looks like `pool.Pool`.

    `asked` logs (model, messages), `stopped` the models of answers that were left early; so many requests as
    `busy` says are refused first, and prompts of more characters than `longest`. `pause_s`, between two pieces, may be
    changed in mid-answer.
    """

    waiting = running = 0

    def __init__(self, scripts: dict[str, Script], pause_s: float = 0.002) -> None:
        self.scripts, self.pause_s = scripts, pause_s
        self.names = tuple(scripts)
        self.asked: list[tuple[str, list[dict[str, str]]]] = []
        self.stopped: list[str] = []
        self.busy, self.longest = 0, 100_000

    @asynccontextmanager
    async def answer(self, order: Order, client: str) -> AsyncIterator[ScriptedAnswer]:
        if self.busy:
            self.busy -= 1
            raise ApiError(503, "Too many requests wait already.", code="queue_full", headers={"Retry-After": "1"})
        messages: Any = order.prompt
        if sum(len(message["content"]) for message in messages) > self.longest:
            raise ApiError(400, "The prompt is too long.", param="messages", code="context_length_exceeded")
        self.asked.append((order.model, [dict(message) for message in messages]))
        answer = ScriptedAnswer(order, self.scripts[order.model](messages[-1]["content"]), self)
        try:
            yield answer
        finally:
            if not answer.finished:
                self.stopped.append(order.model)

    async def close_unused(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.cut()

    def cut(self) -> None:
        self.pause_s = 0.0


def build_app(pool: ScriptedPool, settings: Settings) -> FastAPI:
    with patch.object(application, "Pool", lambda models, settings, metrics: pool):
        return application.create_app({}, settings)


@contextmanager
def running(pool: ScriptedPool, settings: Settings) -> Iterator[str]:
    """Serve on a free port of this machine. Yields: its address."""
    listener = open_port(settings)
    server = Server(build_app(pool, settings), settings)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server ended at once"
            threading.Event().wait(0.01)
        yield address_of(listener).rstrip("/")
    finally:
        server.stop()
        thread.join(10)


def write_rating(folder: Path, **changes: Any) -> Path:
    """A rating file with ten questions; None leaves a key out."""
    standard = {"models": ["student", "teacher"], "questions": QUESTIONS, "characters_per_second": 10000.0}
    values: dict[str, Any] = {**standard, **changes}
    path = folder / "rating.toml"
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
