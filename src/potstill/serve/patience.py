"""Connections that take for ever are closed.

In:  the limits of the settings.
Out: uvicorn's HTTP protocol, which by itself waits without end for a request's head and for a client that reads.
Does not know: requests, answers.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_LOOKS = 4
"""How often in the shorter limit it is looked."""


def patient_protocol(head_s: float, stall_s: float) -> type[H11Protocol]:
    """uvicorn's protocol that closes a connection

    - whose request has no complete head `head_s` seconds after it was opened, or after the head's first byte;
    - whose client has taken nothing of what is ready for it in `stall_s` seconds.
    """
    pause = min(head_s, stall_s) / _LOOKS

    class PatientProtocol(H11Protocol):
        _head_since: float | None
        _look_handle: asyncio.TimerHandle
        _unsent = 0
        _moved = 0.0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._head_since = self._moved = self.loop.time()
            self._look_handle = self.loop.call_later(pause, self._look)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._head_since = None  # its head is complete
            elif self._head_since is None:
                self._head_since = self.loop.time()

        def connection_lost(self, exc: Exception | None) -> None:
            self._look_handle.cancel()
            super().connection_lost(exc)

        def _look(self) -> None:
            now = self.loop.time()
            unsent = self.transport.get_write_buffer_size()
            if not unsent or unsent < self._unsent:
                self._moved = now
            self._unsent = unsent
            late = self._head_since is not None and now - self._head_since > head_s
            if late or now - self._moved > stall_s:
                self.transport.abort()  # `close` would wait until the client has read the rest
            else:
                self._look_handle = self.loop.call_later(pause, self._look)

    return PatientProtocol
