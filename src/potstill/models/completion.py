"""One request to llama.cpp: what can be asked beyond sampling, and what its events say.

In:  the events of one completion, as llama.cpp sends them.
Out: pieces of text with the probabilities of their tokens, and the finished reply.
Does not know: models, threads, conversations.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

LEAST_LOGPROB = -9999.0
"""What OpenAI's API says instead of minus infinity, which JSON lacks."""


@dataclass(frozen=True)
class Wishes:
    """What may be asked of one answer beyond its sampling."""

    logprobs: int | None = None
    """How many of the likeliest tokens to name at every place; None: no probabilities at all."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    ignore_end: bool = False
    """Write on to the longest length whatever the model wants, for measuring."""

    def fields(self) -> dict[str, Any]:
        """In llama.cpp's words."""
        return {
            # 0 would switch them off; who wants the chosen token alone still needs 1
            "n_probs": 0 if self.logprobs is None else max(1, self.logprobs),
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "ignore_eos": self.ignore_end,
        }


@dataclass(frozen=True)
class Chance:
    """A token and the natural logarithm of its probability, before temperature and cuts."""

    text: str
    raw: bytes
    """The token's bytes: a part of a character has no text of its own."""
    logprob: float
    likeliest: tuple[Chance, ...] = ()
    """The likeliest tokens at this place, best first."""


@dataclass(frozen=True)
class Piece:
    """Some text of an answer, as it came."""

    text: str
    chances: tuple[Chance, ...]
    """Of its tokens, where asked for. Tokens that llama.cpp hands over together share one entry: text held back
    because a stop text might have begun (their product), and a character of several tokens (the last one's)."""
    at: float
    """`time.perf_counter()` of its arrival."""


@dataclass(frozen=True)
class Reply:
    """One finished answer and what it took."""

    text: str
    finish: Literal["stop", "length"]
    """stop: the model ended it, or a stop text came. length: `max_tokens` or the context did."""
    prompt_tokens: int
    tokens: int
    """Tokens written; the end-of-turn token counts where there is one."""
    first_token_s: float
    """Seconds until the first token was chosen, everything included that `seconds` includes."""
    seconds: float
    """Seconds to the end: reading the prompt, writing, handing over. In a batch, from a free slot on."""
    arrivals: tuple[float, ...]
    """Seconds from the start until each piece of text came: what a person who reads along feels."""


@dataclass(frozen=True)
class Writing:
    """An answer that a worker is writing."""

    future: Future[Reply]
    _stop: threading.Event

    @property
    def stopped(self) -> bool:
        """Whether it was told to end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End it at the next token, or before it begins; `future` is done when nothing runs any more."""
        self._stop.set()
        self.future.cancel()


class Answer:
    """What one request has brought so far."""

    def __init__(self, on_piece: Callable[[Piece], None], stopped: Callable[[], bool], started: float) -> None:
        self._on_piece = on_piece
        self._stopped = stopped
        self._started = started
        self._pieces: list[str] = []
        self._arrivals: list[float] = []
        self._held_logprob = 0.0
        self._finish: Literal["stop", "length"] | None = None
        self._usage: dict[str, int] = {}
        self._decode_s = 0.0
        self._error: str | None = None

    def take(self, event: dict[str, Any]) -> bool:
        """One event of the stream. Returns: whether llama.cpp shall stop here."""
        if "error" in event:
            self._error = str(event["error"].get("message", event["error"]))
            return True
        choice = event["choices"][0]
        chances = self._chances(choice)
        if text := choice["text"]:
            piece = Piece(text, chances, time.perf_counter())
            self._pieces.append(text)
            self._arrivals.append(piece.at - self._started)
            self._on_piece(piece)
        if choice["finish_reason"]:
            self._finish = choice["finish_reason"]
            self._usage = event["usage"]
            self._decode_s = event["timings"]["predicted_ms"] / 1000
        return self._stopped()

    def reply(self) -> Reply:
        """The finished answer. Raises: RuntimeError where it isn't finished."""
        seconds = time.perf_counter() - self._started
        if self._finish is None:
            raise RuntimeError(f"llama.cpp wrote no answer: {self._error or 'it was stopped'}")
        return Reply(
            text="".join(self._pieces),
            finish=self._finish,
            prompt_tokens=self._usage["prompt_tokens"],
            tokens=self._usage["completion_tokens"],
            first_token_s=seconds - self._decode_s,
            seconds=seconds,
            arrivals=tuple(self._arrivals),
        )

    def _chances(self, choice: dict[str, Any]) -> tuple[Chance, ...]:
        entries = (choice.get("logprobs") or {}).get("content") or ()
        if not entries:
            return ()
        self._held_logprob += sum(_logprob(entry) for entry in entries)
        if not choice["text"]:
            return ()
        logprob, self._held_logprob = self._held_logprob, 0.0
        text = choice["text"]
        likeliest = tuple(_chance(entry) for entry in entries[-1].get("top_logprobs", ()))
        return (Chance(text, text.encode(), logprob, likeliest),)


def pieces_of_text(on_text: Callable[[str], None]) -> Callable[[Piece], None]:
    """For who wants the text alone."""
    return lambda piece: on_text(piece.text)


def _chance(entry: dict[str, Any]) -> Chance:
    return Chance(entry["token"], bytes(entry["bytes"]), _logprob(entry))


def _logprob(entry: dict[str, Any]) -> float:
    logprob = entry["logprob"]
    return LEAST_LOGPROB if logprob is None else max(float(logprob), LEAST_LOGPROB)
