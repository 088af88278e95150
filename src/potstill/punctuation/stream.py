"""What a filter of a stream is made of: one character at a time, code passed through, little held back.

In:  text in pieces.
Out: what is decided of it, and the rest at the end.
Does not know: which marks become which.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from potstill.punctuation.code import CodeReader


class Stream(ABC):
    """Feed it pieces, then close it."""

    def __init__(self) -> None:
        self._reset()

    def feed(self, piece: str) -> str:
        """Take a piece of text; returns what is decided by now."""
        out = []
        for character in piece:
            self._held += character
            out.append(self._release(final=False))
        return "".join(out)

    def close(self) -> str:
        """The text has ended; returns what was held back. The filter is then as new."""
        rest = self._release(final=True)
        self._reset()
        return rest

    def _reset(self) -> None:
        self._held = ""
        self._code = CodeReader()

    def _release(self, final: bool) -> str:
        out = []
        while self._held:
            code = self._code.holds(self._held[0])
            decided = (1, self._held[0]) if code else self._decide(self._held, final)
            if decided is None:
                break
            length, text = decided
            taken, self._held = self._held[:length], self._held[length:]
            for character in taken:
                self._code.take(character)
            self._note(taken, text, code)
            out.append(text)
        return "".join(out)

    @abstractmethod
    def _decide(self, held: str, final: bool) -> tuple[int, str] | None:
        """How many of the characters held go out, and as what; None where more must come first."""

    @abstractmethod
    def _note(self, taken: str, text: str, code: bool) -> None:
        """Remember what has gone out. What is left of the characters held is still there."""
