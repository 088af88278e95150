"""The one exception that people are meant to read.

In:  what is wrong (naming the file, the key or the value) and how to mend it.
Out: an exception whose text is one line (a list of mistakes: one a line), ready for a terminal.
Does not know: who raises it, or how it is shown.
"""

from __future__ import annotations

import errno
import sys

_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNUSABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.ENOLCK,
    errno.EIO,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)
"""Of a file or a folder: no right to it, or something else lies there."""


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


def install(extra: str) -> str:
    """The remedy where an optional dependency is missing: potstill is on no index, so a plain pip would not do.

    Args:
        extra: as under [project.optional-dependencies].
    """
    return f"In potstill's own folder: {sys.executable} -m pip install -e '.[{extra}]'"


def in_one_line(error: Exception) -> str:
    """What an error says first, for the middle of a sentence."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]


def what_the_system_refused(error: Exception) -> Problem | None:
    """What a full disk, a folder without rights or too little memory made some library raise; None: a mistake of ours.

    safetensors tells of the disk, and torch of memory, in words alone.
    """
    code, place = getattr(error, "errno", None), getattr(error, "filename", None)
    if code in _FULL or any(f"(os error {full})" in str(error) for full in _FULL):
        return Problem(f"the disk is full ({error})", "Free some; the same command goes on where it was.")
    if code in _UNUSABLE and place is not None:
        return Problem(f"{place}: {getattr(error, 'strerror', error)}", "Mend that, or name another folder.")
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return Problem("out of memory", "Close other programs, or lower what `potstill check` says takes it.")
    return None
