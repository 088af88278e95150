"""What every request passes before the application sees it: who is called, who calls, how much is sent.

In:  ASGI requests.
Out: the same requests, their body complete and small; or a refusal. Security headers on every response.
Does not know: what the endpoints do.

Against a page of another site that the user happens to have open: the Host header must be one of ours (a rebound
name is not), and a request that says another Origin may change nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from potstill.serve.errors import ApiError
from potstill.serve.settings import Settings

OPEN_PATHS = frozenset({"/", "/compare", "/operate", "/health", "/favicon.ico"})
OPEN_FOLDERS = ("/static/", "/rate/")
"""Pages hold no secret; a rater's link is a key of its own."""
OPERATOR = "/operate/"
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
UNKNOWN_HOST = (
    "This server does not go by that name: start it with --allowed-host NAME, or use the machine's IP address."
)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_CLOSE = {"Connection": "close"}


class ClientGone(Exception):
    """The client went before its request was complete."""


class Guard:
    """ASGI middleware: refuses what must not get further."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then hand on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
            body = await self._body(Headers(scope=scope), receive)
        except ApiError as error:
            await error.response()(scope, receive, send)
        except ClientGone:
            return
        else:
            await self._app(scope, _replay(body, receive), send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if not is_known_host(headers.get("host", ""), self._settings):
            raise ApiError(403, UNKNOWN_HOST, code="unknown_host")
        if scope["method"] not in _SAFE_METHODS and not _is_own_origin(headers):
            raise ApiError(403, "Pages of other sites may not use this server.", code="unknown_origin")
        path = scope["path"]
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDERS):
            return
        if self._settings.api_key is not None:
            self._check_key(headers)
        elif path.startswith(OPERATOR) and not is_local(scope):
            raise ApiError(403, "Only for this machine itself, or with an API key.", code="not_local")

    def _check_key(self, headers: Headers) -> None:
        kind, _, key = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not self._settings.is_key(key.strip().encode("latin-1")):
            raise ApiError(
                401, "The API key is missing or wrong.", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
            )

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        limit = 1024 * self._settings.body_kb
        too_large = ApiError(
            413, f"A body may have {self._settings.body_kb} KiB here.", code="body_too_large", headers=_CLOSE
        )
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_s):
                async for part in _parts(receive):
                    body += part
                    if len(body) > limit:
                        raise too_large
        except TimeoutError:
            raise ApiError(408, "The body took too long to arrive.", code="body_too_slow", headers=_CLOSE) from None
        return bytes(body)


class SecurityHeaders:
    """ASGI middleware: the headers that keep pages to themselves, on every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on; headers that a response has set itself stay."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if not scope["path"].startswith("/static/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


def client_of(scope: Scope) -> str:
    """Whose request it is, for the queue: the address it came from."""
    return str(scope["client"][0]) if scope.get("client") else "unknown"


def is_local(scope: Scope) -> bool:
    """Whether the request was made on this machine, and not handed on by a proxy on it."""
    headers = Headers(scope=scope)
    handed_on = any(name in headers for name in ("forwarded", "x-forwarded-for", "x-real-ip"))
    return not handed_on and _is_loopback(client_of(scope)) and _is_loopback(_host_name(headers.get("host", "")))


def is_known_host(header: str, settings: Settings) -> bool:
    """Whether a Host header names this server.

    A plain address always does: a name that an attacker has rebound to this machine is no address.
    """
    name = _host_name(header)
    known = {"localhost", settings.host.lower(), *(host.lower() for host in settings.allowed_hosts)}
    return name in known or _is_address(name)


def _is_own_origin(headers: Headers) -> bool:
    origin = headers.get("origin")
    return origin is None or origin.endswith(f"://{headers.get('host')}")


def _host_name(header: str) -> str:
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ip_address(name).is_loopback)


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then whatever comes."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replaying() -> Message:
        return first.pop() if first else await receive()

    return replaying
