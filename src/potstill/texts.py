"""Plain text files that a recipe names.

In:  paths.
Out: their text, in pieces of a readable length.
Does not know: what the text is read for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from potstill.problem import Problem


def read_text(path: Path) -> str:
    """A UTF-8 text file. Raises: Problem naming the file where it is missing, not text, or empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{path}: cannot be read as text ({error})", "Give a UTF-8 text file in the recipe.") from None
    if not text.strip():
        raise Problem(f"{path}: is empty", "Take it out of the recipe or put text into it.")
    return text


def passages(paths: Iterable[Path], characters: int) -> Iterator[str]:
    """Runs of whole lines of at most about `characters` characters, taking the files in turn.

    Taking turns lets a reader that stops early have seen something of every file.
    """
    open_files = [_passages(read_text(path), characters) for path in paths]
    while open_files:
        for file in list(open_files):
            passage = next(file, None)
            if passage is None:
                open_files.remove(file)
            else:
                yield passage


def _passages(text: str, characters: int) -> Iterator[str]:
    passage = ""
    for line in text.splitlines(keepends=True):
        if passage and len(passage) + len(line) > characters:
            yield passage
            passage = ""
        passage += line
    if passage.strip():
        yield passage
