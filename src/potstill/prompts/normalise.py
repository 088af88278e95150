"""One spelling for every text that a person can't tell apart.

In:  any string, from any file.
Out: NFC text without control characters and without whitespace at its ends.
Does not know: prompts, files.
"""

from __future__ import annotations

import re
import unicodedata

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
# Control characters but tab and newline; lone surrogates; soft hyphen, zero-width space, word joiner, byte
# order mark and direction marks. Zero-width joiners stay: emoji and several scripts are spelled with them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\xad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)


def normalise(text: str) -> str:
    """The text in NFC, line ends as newlines, unseen characters removed, stripped.

    Doing it twice changes nothing.
    """
    return unicodedata.normalize("NFC", _UNSEEN.sub("", _LINE_ENDS.sub("\n", text))).strip()
