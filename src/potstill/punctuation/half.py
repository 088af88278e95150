"""Half-width marks for terminals that break on full-width ones.

In:  Chinese text in pieces.
Out: the same with ASCII marks and their spaces; code unchanged.
Does not know: what a terminal can show.
"""

from __future__ import annotations

from potstill.punctuation.stream import Stream

HALF = {
    **{"，": ", ", "、": ", ", "。": ". ", "；": "; ", "：": ": ", "？": "? ", "！": "! ", "（": " (", "）": ") "},
    **{"“": '"', "”": '"', "‘": "'", "’": "'", "……": "...", "…": "...", "——": "--", "—": "-", "～": "~"},
    "\u3000": "  ",
}
"""《》, 「」 and 【】 have no half-width marks of the same meaning and stay."""
OPENING = "(\"'“‘《「【`*"


class HalfWidth(Stream):
    """A stream of text in, the same stream with half-width marks out."""

    def _reset(self) -> None:
        super()._reset()
        self._last = "\n"

    def _decide(self, held: str, final: bool) -> tuple[int, str] | None:
        if held[0] not in HALF or self._code.looks_like_code():
            return 1, held[0]
        if len(held) < 2 and not final:
            return None
        length = 2 if len(held) > 1 and held[:2] in HALF else 1
        text, behind = HALF[held[:length]], held[length : length + 1]
        if length == 2 or not text.strip():
            return length, text
        if self._last.isspace() or self._last in "([\"'":
            text = text.lstrip()
        return length, text if behind.isalnum() or behind in tuple(OPENING) else text.rstrip()

    def _note(self, taken: str, text: str, code: bool) -> None:
        self._last = text[-1]
