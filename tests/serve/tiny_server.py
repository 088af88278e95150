"""A real server on loopback, in a thread.

In:  models, settings.
Out: the running server, its address, clients for it.
Does not know: any single test.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from potstill.serve.app import create_app
from potstill.serve.pool import Pool
from potstill.serve.server import Server, address_of, open_port
from potstill.serve.settings import Settings

Start = Callable[..., "Served"]


@dataclass
class Served:
    """A server that runs."""

    url: str
    settings: Settings
    pool: Pool
    server: Server

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}v1", **{"api_key": "unused", "max_retries": 0, **options})

    def settle(self) -> None:
        """Wait until nobody has a turn or waits for one."""
        wait_until(lambda: not self.pool.running and not self.pool.waiting)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@contextmanager
def running(models: Mapping[str, Callable[[], Path]], settings: Settings) -> Iterator[Served]:
    app = create_app(models, settings)
    listener = open_port(settings)
    server = Server(app, settings)
    ended: list[str] = []

    def serve() -> None:
        server.run([listener])
        ended.append("in order")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Served(address_of(listener), settings, app.state.pool, server)
    finally:
        server.stop()
        thread.join(20)
        assert ended == ["in order"], "the server did not end, or died while tests were talking to it"
