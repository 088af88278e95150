"""One line in the log and one count for every request, and no exception gets past it.

In:  ASGI requests.
Out: log lines without message text, keys or rater links; counts by route; 500 in OpenAI's words where all else failed.
Does not know: what the endpoints do.
"""

from __future__ import annotations

import logging
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from potstill.serve.errors import ApiError
from potstill.serve.guard import client_of
from potstill.serve.metrics import Metrics

log = logging.getLogger("potstill.serve")
LONGEST_PATH = 120
UNKNOWN = "other"
CLIENT_GONE = 499
"""What nginx calls a client that went before the response began."""


class Access:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, then write down."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        begun = time.perf_counter()

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, seen)
        except Exception:
            log.exception("%s %s failed", scope["method"], path_for_log(scope["path"]))
            if status:
                raise
            await ApiError(500, "The server failed; its log says more.", code="internal_error").response()(
                scope, receive, seen
            )
        finally:
            status = status or CLIENT_GONE
            self._metrics.request_ended(_route(scope), status)
            milliseconds = 1000 * (time.perf_counter() - begun)
            line = (client_of(scope), scope["method"], path_for_log(scope["path"]), status, milliseconds)
            log.info("%s %s %s %s %.0f ms", *line)


def path_for_log(path: str) -> str:
    """A path on one line, without a rater's token."""
    plain = re.sub(r"^/rate/[^/]*", "/rate/…", path)
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in plain)[:LONGEST_PATH]


def _route(scope: Scope) -> str:
    """The route's template: a label must not take any value that a client thinks of."""
    if scope["path"].startswith("/static/"):
        return "/static"
    return str(getattr(scope.get("route"), "path", UNKNOWN))
