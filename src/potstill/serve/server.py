"""A server on a port, from its start to Ctrl-C.

In:  a run folder, a pack or a GGUF; settings.
Out: served requests; one line that says where.
Does not know: what is served.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from potstill.chat import find_models, usual_marks
from potstill.evaluate.naturalness import ratings_file
from potstill.evaluate.scorecard import STUDENT
from potstill.models.gguf_adapter import parts_of
from potstill.models.gguf_reader import check_gguf
from potstill.pack import find_pack_model, is_pack
from potstill.problem import Problem
from potstill.run import default_home
from potstill.serve.app import create_app
from potstill.serve.patience import patient_protocol
from potstill.serve.pool import Pool
from potstill.serve.settings import Settings

LARGEST_HEAD = 16 * 1024
"""Bytes of a request's line and headers."""
GRACE_S = 1
"""How long answers that were cut may take to say so."""


def serve(place: Path, settings: Settings, say: Callable[[str], None] = print) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        place: a run folder, a pack, or a GGUF.
        settings: how.
        say: takes the line that names the address.

    Raises: Problem: nothing to serve, a file that is no GGUF, unsafe settings, a port that is taken.
    """
    models = find_models(place, settings.adapter)
    if place.is_file():
        check_gguf(parts_of(place).model)  # a file that is none is told here, not to the first client
    unsaid: dict[str, object] = {"marks": settings.marks or usual_marks(place)}
    if settings.rating is not None and settings.ratings_file is None:
        shipped = models.get(STUDENT) or next(iter(models.values()))
        unsaid["ratings_file"] = ratings_file(_ratings_folder(place), shipped())
    settings = settings.model_copy(update=unsaid)
    app = create_app(models, settings)
    listener = open_port(settings)
    _log_to_stderr()
    say(f"Serving on {address_of(listener)}  (Ctrl-C ends)")
    with suppress(KeyboardInterrupt):
        Server(app, settings).run([listener])


def open_port(settings: Settings) -> socket.socket:
    """A socket that listens where the settings say. Raises: Problem where it can't."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Problem(f"{settings.host} is no address of this machine ({error})", "Try --host 127.0.0.1.") from None
    try:
        if sys.platform != "win32":  # there it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(settings.connections)
    except OSError as error:
        listener.close()
        remedy = "Give another --port, or 0 for any free one."
        raise Problem(f"Cannot listen on {settings.host} port {settings.port} ({error.strerror})", remedy) from None
    return listener


def address_of(listener: socket.socket) -> str:
    """What to type into a browser on this machine."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class Server(uvicorn.Server):
    """uvicorn's, which on the way out cuts the answers that are being written instead of waiting for them."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self._pool: Pool = app.state.pool
        self._loop: asyncio.AbstractEventLoop | None = None
        super().__init__(
            uvicorn.Config(
                app,
                http=patient_protocol(settings.head_s, settings.stall_s),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # whoever stands on loopback could give any address as its own
                limit_concurrency=settings.connections,
                timeout_keep_alive=settings.keep_alive_s,
                timeout_graceful_shutdown=GRACE_S,
                h11_max_incomplete_event_size=LARGEST_HEAD,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ctrl-C, SIGTERM."""
        super().handle_exit(sig, frame)
        self.stop()

    def stop(self) -> None:
        """End soon; any thread may say so."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._pool.cut)


def _ratings_folder(place: Path) -> Path:
    """Beside what is served; for a pack elsewhere, for nothing unlisted may lie in it, or outlives its installation."""
    packed = is_pack(place.parent) if place.is_file() else find_pack_model(place) is not None
    if not packed:
        return place.parent if place.is_file() else place
    folder = default_home() / "ratings"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("potstill.serve")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
