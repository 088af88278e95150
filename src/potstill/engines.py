"""Where a stage's work is done: in this process, or by the workers of a Ray cluster.

In:  units of work, a worker that is here, and how another process gets the same worker.
Out: what the workers make of the units: each unit once, whoever died on the way.
Does not know: what a unit is, what a worker does with it, run folders.

A unit is done by one worker from its beginning to its end and depends on nothing but itself, so it comes out the same
wherever it is done. What a worker leaves on a disk it leaves whole or not at all.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from potstill.problem import Problem

LOCAL, RAY = "local", "ray"

Unit = TypeVar("Unit")
Result = TypeVar("Result")
Worker = Callable[[Unit], Iterator[Result]]
"""Does one unit, and gives out results while it does."""
OpenWorker = Callable[[], AbstractContextManager[Worker[Unit, Result]]]
"""Makes a worker ready in a process of its own: loads the model. It travels there, so it holds paths, not models."""


def results(
    engine: str, units: Sequence[Unit], here: Worker[Unit, Result], elsewhere: OpenWorker[Unit, Result]
) -> Iterator[Result]:
    """The results of all units: one by one here, or a whole unit at a time, in any order, over a cluster.

    Args:
        engine: `local` or `ray`. units: for a cluster, what pickle can carry; its results too.

    Raises: Problem where there is no such engine, Ray is not installed or the cluster fails; a worker's own Problem.
    """
    if engine == RAY:
        return _over_ray(units, elsewhere) if units else iter(())
    if engine != LOCAL:
        raise Problem(
            f"there is no engine {engine!r}", f"Choose {LOCAL}, {RAY}, or for answers a server's http address."
        )
    return (result for unit in units for result in here(unit))


def _over_ray(units: Sequence[Unit], open_worker: OpenWorker[Unit, Result]) -> Iterator[Result]:
    """A unit a block, so that a block whose worker died is done again; what was received already is not taken twice."""
    import torch

    threads = torch.get_num_threads()
    left = set(range(len(units)))
    with _cluster() as ray:
        # Ray Data carries tables; between its own processes a unit may be a cell of bytes.
        rows = [{"place": place, "unit": pickle.dumps(unit)} for place, unit in enumerate(units)]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Member,
            fn_constructor_args=(open_worker, threads),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=len(rows)),
            num_cpus=threads,
        )
        try:
            for row in done.iter_rows():
                outcome = pickle.loads(row["outcome"])
                if isinstance(outcome, _Refusal):
                    raise Problem(outcome.what, outcome.remedy)
                if row["place"] in left:
                    left.remove(row["place"])
                    yield from outcome
        except ray.exceptions.RayError as error:
            first_line = str(error).strip().partition("\n")[0]
            raise Problem(f"the Ray cluster failed ({first_line})", "Run again: what is finished is kept.") from error
    if left:
        raise Problem(f"the Ray cluster left {len(left)} units undone", "Run again: what is finished is kept.")


@dataclass(frozen=True)
class _Refusal:
    """A worker's `Problem` on its way to the person who can mend it."""

    what: str
    remedy: str


class _Member:
    """A worker in a process of the cluster; it gets ready at its first unit, where a `Problem` can be told."""

    def __init__(self, open_worker: OpenWorker[Any, Any], threads: int) -> None:
        self._open_worker, self._threads = open_worker, threads
        self._opened = ExitStack()
        self._work: Worker[Any, Any] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        outcome: list[Any] | _Refusal
        try:
            outcome = list(self._ready()(pickle.loads(row["unit"])))
        except Problem as problem:
            outcome = _Refusal(problem.what, problem.remedy)
        return {"place": row["place"], "outcome": pickle.dumps(outcome)}

    def _ready(self) -> Worker[Any, Any]:
        if self._work is None:
            import torch

            torch.set_num_threads(self._threads)  # rounding depends on it
            self._work = self._opened.enter_context(self._open_worker())
        return self._work


@contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected: to the cluster of RAY_ADDRESS or of this machine; one is started here where there is none."""
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError:
        raise Problem("Ray is not installed", 'pip install "potstill[ray]"') from None
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise Problem(
                f"no Ray cluster can be reached ({first_line})", "Check RAY_ADDRESS and `ray status`."
            ) from None
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()
