"""The one exception that people are meant to read.

In:  what is wrong (naming the file, the key or the value) and how to mend it.
Out: an exception whose text is one line (a list of mistakes: one a line), ready for a terminal.
Does not know: who raises it, or how it is shown.
"""

from __future__ import annotations


class Problem(Exception):
    """Something a user can put right: bad input, a full disk, a damaged file, no network.

    Args:
        what: what is wrong, with the file, the key and the value it is about.
        remedy: what to do about it, as an instruction.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}\n{remedy}" if "\n" in what else f"{what}. {remedy}")
        self.what = what
        self.remedy = remedy
