"""What OpenAI's API answers: whole answers, and the chunks of a stream.

In:  finished replies, pieces of text with the probabilities of their tokens.
Out: JSON objects in the shapes that OpenAI's clients expect.
Does not know: how an answer came about, how it is sent.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from potstill.models.completion import Chance, Piece, Reply

Object = dict[str, Any]


class Shape(Protocol):
    """How one endpoint says an answer."""

    def whole(self, reply: Reply, pieces: Sequence[Piece]) -> Object:
        """The answer at once."""
        ...

    def opening(self) -> Object | None:
        """The chunk before any text."""
        ...

    def chunk(self, piece: Piece) -> Object:
        """Some text."""
        ...

    def closing(self, reply: Reply) -> Object:
        """The chunk that says why it ended."""
        ...

    def usage(self, reply: Reply, measured: Mapping[str, float]) -> Object:
        """The chunk with the count of tokens."""
        ...


@dataclass
class _Common:
    model: str
    logprobs: int | None
    """How many likeliest tokens to name; None: no probabilities."""
    identity: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    _offset: int = 0

    def _envelope(self, prefix: str, kind: str, choices: list[Object]) -> Object:
        return {
            "id": f"{prefix}-{self.identity}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


class ChatShape(_Common):
    """`/v1/chat/completions`."""

    def whole(self, reply: Reply, pieces: Sequence[Piece]) -> Object:
        """As `Shape`."""
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": reply.finish, "logprobs": self._logprobs(pieces)}
        return self._envelope("chatcmpl", "chat.completion", [choice]) | {"usage": usage(reply)}

    def opening(self) -> Object | None:
        """As `Shape`."""
        return self._chunk({"role": "assistant", "content": ""})

    def chunk(self, piece: Piece) -> Object:
        """As `Shape`."""
        return self._chunk({"content": piece.text}, self._logprobs([piece]))

    def closing(self, reply: Reply) -> Object:
        """As `Shape`."""
        return self._chunk({}, finish=reply.finish)

    def usage(self, reply: Reply, measured: Mapping[str, float]) -> Object:
        """As `Shape`."""
        counts = {"usage": usage(reply), "potstill": dict(measured)}
        return self._envelope("chatcmpl", "chat.completion.chunk", []) | counts

    def _chunk(self, delta: Object, logprobs: Object | None = None, finish: str | None = None) -> Object:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        return self._envelope("chatcmpl", "chat.completion.chunk", [choice])

    def _logprobs(self, pieces: Sequence[Piece]) -> Object | None:
        if self.logprobs is None:
            return None
        chances = [chance for piece in pieces for chance in piece.chances]
        content = [
            _entry(chance) | {"top_logprobs": [_entry(other) for other in chance.likeliest[: self.logprobs]]}
            for chance in chances
        ]
        return {"content": content, "refusal": None}


class TextShape(_Common):
    """`/v1/completions`."""

    def whole(self, reply: Reply, pieces: Sequence[Piece]) -> Object:
        """As `Shape`."""
        return self._completion(reply.text, reply.finish, self._logprobs(pieces)) | {"usage": usage(reply)}

    def opening(self) -> Object | None:
        """As `Shape`: here there is none."""
        return None

    def chunk(self, piece: Piece) -> Object:
        """As `Shape`."""
        return self._completion(piece.text, None, self._logprobs([piece]))

    def closing(self, reply: Reply) -> Object:
        """As `Shape`."""
        return self._completion("", reply.finish, None)

    def usage(self, reply: Reply, measured: Mapping[str, float]) -> Object:
        """As `Shape`."""
        counts = {"usage": usage(reply), "potstill": dict(measured)}
        return self._envelope("cmpl", "text_completion", []) | counts

    def _completion(self, text: str, finish: Literal["stop", "length"] | None, logprobs: Object | None) -> Object:
        choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": logprobs}
        return self._envelope("cmpl", "text_completion", [choice])

    def _logprobs(self, pieces: Sequence[Piece]) -> Object | None:
        if self.logprobs is None:
            return None
        chances = [chance for piece in pieces for chance in piece.chances]
        offsets = []
        for chance in chances:
            offsets.append(self._offset)
            self._offset += len(chance.text)
        return {
            "tokens": [chance.text for chance in chances],
            "token_logprobs": [chance.logprob for chance in chances],
            "top_logprobs": [_named(chance.likeliest[: self.logprobs]) for chance in chances],
            "text_offset": offsets,
        }


def usage(reply: Reply) -> Object:
    """How many tokens were read and written."""
    total = reply.prompt_tokens + reply.tokens
    return {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.tokens, "total_tokens": total}


def _entry(chance: Chance) -> Object:
    return {"token": chance.text, "logprob": chance.logprob, "bytes": list(chance.raw)}


def _named(chances: Sequence[Chance]) -> dict[str, float]:
    named: dict[str, float] = {}
    for chance in chances:  # several parts of characters may look alike: the likeliest stands
        named.setdefault(chance.text, chance.logprob)
    return named
