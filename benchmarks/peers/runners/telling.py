"""What a measured process says to the conductor: JSON lines.

In:  one JSON job on stdin.
Out: one JSON object a line on stdout, whatever the measured libraries print (that goes to stderr).
Does not know: what is measured. Runs in every peer's Python, so it needs the standard library alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

Job = dict[str, Any]


def serve(work: Callable[[Job, Teller], None]) -> None:
    """Read the job, do it, say how it ended: `done` with the peak memory, or `failed` with the reason."""
    teller = Teller()
    try:
        work(json.load(sys.stdin), teller)
    except Exception as error:  # whatever it is, the table shall say it
        teller.tell("failed", why=f"{type(error).__name__}: {error}")
        raise
    teller.tell("done", peak_mb=peak_mb())


class Teller:
    """Takes stdout for itself; print() and C code of the measured libraries get stderr."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._started = 0.0

    def tell(self, kind: str, **values: Any) -> None:
        """One line."""
        self._out.write(json.dumps({"kind": kind, **values}) + "\n")
        self._out.flush()

    def start(self) -> None:
        """The clock of `step` begins: models are loaded, the work starts."""
        self._started = time.perf_counter()

    def seconds(self) -> float:
        """Since `start`."""
        return time.perf_counter() - self._started

    def step(self, tokens: int) -> None:
        """A piece of work is done. `tokens`: all that were read since the start, padding left out."""
        self.tell("step", seconds=self.seconds(), tokens=tokens)


def versions(*names: str) -> dict[str, str]:
    """Installed versions of those distributions."""
    return {name: version(name) for name in names}


def peak_mb() -> float:
    """Largest resident memory of this process, MB (10⁶ bytes)."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) * 1024 / 1e6
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 1e6 if sys.platform == "darwin" else largest * 1024 / 1e6
