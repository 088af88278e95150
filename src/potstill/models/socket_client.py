"""HTTP over a Unix socket, to the llama.cpp server inside this process.

In:  an endpoint and a JSON body.
Out: the JSON answer.
Does not know: what is asked.
"""

from __future__ import annotations

import http.client
import json
import socket
import tempfile
from pathlib import Path
from typing import Any

_LONGEST_PATH = 80
"""Bytes of the folder's path; the kernel allows 104 with the socket's name on macOS, 108 on Linux."""
_TIMEOUT_S = 300.0


class PrivateSocket:
    """A place for a socket that only this user can reach, and requests to whoever listens there."""

    def __init__(self) -> None:
        folder = tempfile.gettempdir()
        if len(folder.encode()) > _LONGEST_PATH:
            folder = "/tmp"
        self._folder = tempfile.TemporaryDirectory(prefix="potstill-", dir=folder, ignore_cleanup_errors=True)
        self.path = Path(self._folder.name, "engine.sock")

    def close(self) -> None:
        """Take the socket and its folder away. Safe to call twice."""
        self._folder.cleanup()

    def post(self, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send `body`; returns the answer. Raises: RuntimeError with the server's words where it refuses."""
        connection = _Connection(self.path)
        try:
            connection.request("POST", endpoint, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != http.client.OK:
            reason = answer.get("error", {}).get("message", answer)
            raise RuntimeError(f"llama.cpp refused {endpoint}: {reason}")
        return answer


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
