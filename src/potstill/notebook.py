"""What took long to find out, kept as soon as it is known.

In:  a file, keys, values that JSON can hold.
Out: the same values in the next process, however the last one ended.
Does not know: what the values are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from potstill.problem import Problem


class Notebook:
    """Key → value, a JSON line each, kept as soon as it is known. A line torn by a kill is as good as not there."""

    def __init__(self, path: Path, shipped: str = "") -> None:
        """Open or begin the file; `shipped` holds more such lines, which are only read."""
        self._path = path
        self._known: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        for line in (shipped + own).split("\n"):
            try:
                key, value = json.loads(line)
            except ValueError:
                continue
            self._known[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def put(self, key: str, value: Any) -> None:
        """Keep a value: in a line of its own, whatever an earlier kill has left at the end.

        Raises: Problem where the disk takes no more.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps([key, value], ensure_ascii=False) + "\n")
        except OSError as error:
            what = f"{self._path}: cannot be written ({error.strerror})"
            raise Problem(what, "Make room and run again: what is written so far is kept.") from None
        self._known[key] = value
