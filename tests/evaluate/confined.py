"""Programs under the usual limits, in each kind of wall that this machine gives.

In:  a program's source, limits that differ.
Out: what came of it; what of it still runs.
Does not know: any single attack.
"""

from __future__ import annotations

import textwrap
import time
from dataclasses import replace
from pathlib import Path

from potstill.evaluate.sandbox import Limits, Outcome, run_python, try_walls

LIMITS = Limits(cpu_s=10, wall_s=60, memory_mb=256, processes=8, file_mb=8, output_kb=64)
KINDS = {kind: try_walls(kind) for kind in ("bubblewrap", "namespaces")}


def run(source: str, **limits: float) -> Outcome:
    """Run `source` under the usual limits, or other ones."""
    return run_python(textwrap.dedent(source), replace(LIMITS, **limits))


def last_line(outcome: Outcome) -> str:
    """The last line of a traceback."""
    return outcome.stderr.strip().rpartition("\n")[2]


def running(marker: str) -> list[str]:
    """Command lines of this machine's processes that hold `marker`, once the kernel has cleaned up."""
    found: list[str] = []
    for _ in range(50):
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes()
            except OSError:
                continue
            if marker.encode() in line:
                found.append(line.decode("utf-8", "replace"))
        if not found:
            break
        time.sleep(0.02)
    return found
