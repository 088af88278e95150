"""One piece of work in a process of its own, so that its peak memory is nobody else's; and what it grows like.

In:  a function of a module that can be imported, its arguments; costs at several sizes.
Out: seconds it took and the largest resident memory of its process; a line through those costs.
Does not know: what the function does.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from potstill.machine import bound_product_caches, peak_memory_mb


class Cost(NamedTuple):
    """What one piece of work took, the start of its process left out; MB of 10⁶ bytes."""

    seconds: float
    cpu_seconds: float
    """Of all threads: what is left of the time where other programs run beside."""
    peak_mb: float


class Line(NamedTuple):
    """`fixed + each · size`."""

    fixed: float
    each: float
    off: float
    """Largest distance of a measurement from the line, as a share of the line."""

    def at(self, size: float) -> float:
        """What it says for a size."""
        return self.fixed + self.each * size


def alone(function: Callable[..., Any], *arguments: Any, loaded: Sequence[str] = ()) -> Cost:
    """Call it in a process of its own. Raises: SystemExit where it fails there (it says why on stderr).

    Args:
        loaded: modules that the process has imported before the clock starts; their memory counts.
    """
    context: Any = multiprocessing.get_context("forkserver" if loaded else "spawn")
    if loaded:
        context.set_forkserver_preload(list(loaded))
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, function, arguments))
    process.start()
    there.close()
    try:
        cost: Cost = here.recv()
    except EOFError:
        raise SystemExit(f"{function.__name__} failed") from None
    finally:
        process.join()
    return cost


def _work(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    bound_product_caches()  # as the command does
    started, before = time.perf_counter(), time.process_time()
    function(*arguments)
    connection.send(Cost(time.perf_counter() - started, time.process_time() - before, peak_memory_mb()))


def line_through(sizes: Sequence[float], costs: Sequence[float]) -> Line:
    """The line that is least far off, as shares of what was measured (so small sizes count as much as large ones)."""
    each, fixed = np.polyfit(sizes, costs, 1, w=1 / np.maximum(costs, 1e-9))
    line = Line(float(fixed), float(each), 0.0)
    return line._replace(off=max(abs(cost / line.at(size) - 1) for size, cost in zip(sizes, costs, strict=True)))
