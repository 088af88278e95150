"""Where a stage's work is done: in this process, or by the workers of a Ray cluster.

In:  units of work, a worker that is here, and how another process gets the same worker.
Out: what the workers make of the units: each unit once, whoever died on the way.
Does not know: what a unit is, what a worker does with it, run folders.

A unit is done by one worker from its beginning to its end and depends on nothing but itself, so it comes out the same
wherever it is done. What a worker leaves on a disk it leaves whole or not at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from potstill.problem import Problem, in_one_line, install

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
        engine: `local` or `ray`. units, and their results: for a cluster, what Ray can carry to another process.

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
    """A unit is a task of Ray's: done again where its worker dies, three times, and while it waits, a reason to grow.

    Ray Data would do the same with tables: pandas, pyarrow, five more processes, and objects pickled into cells.
    """
    import torch

    threads = torch.get_num_threads()
    with _cluster() as ray:
        _check_room(ray, threads)
        order = ray.put((open_worker, units, threads))  # travels to each machine once
        task = ray.remote(_do).options(num_cpus=threads)
        waiting = [task.remote([order], place) for place in range(len(units))]
        try:
            while waiting:
                (done,), waiting = ray.wait(waiting)
                outcome = ray.get(done)
                if isinstance(outcome, _Refusal):
                    raise Problem(outcome.what, outcome.remedy)
                yield from outcome
        except ray.exceptions.RayError as error:
            last_line = str(error).strip().rpartition("\n")[2]
            raise Problem(f"the Ray cluster failed ({last_line})", "Run again: what is finished is kept.") from error
        finally:
            for unit in waiting:
                ray.cancel(unit, force=True)


@dataclass(frozen=True)
class _Refusal:
    """A worker's `Problem` on its way to the person who can mend it."""

    what: str
    remedy: str


def _do(order: list[Any], place: int) -> list[Any] | _Refusal:
    """One unit, in a process of the cluster. order: holds the reference, since Ray fetches one that is given bare."""
    try:
        return list(_member.ready(order[0])(place))
    except Problem as problem:
        return _Refusal(problem.what, problem.remedy)


class _Member:
    """What a process of the cluster keeps from unit to unit: the worker that it has made ready."""

    def __init__(self) -> None:
        self._order: Any = None
        self._opened = ExitStack()
        self._work: Callable[[int], Iterator[Any]]

    def ready(self, order: Any) -> Callable[[int], Iterator[Any]]:
        """What does the unit at a place. order: refers to open_worker, units and threads; a new one closes the old."""
        if order != self._order:
            import ray
            import torch

            self._opened.close()
            open_worker, units, threads = ray.get(order)
            torch.set_num_threads(threads)  # rounding depends on it
            work = self._opened.enter_context(open_worker())
            self._order, self._work = order, lambda place: work(units[place])
        return self._work


_member = _Member()


def _check_room(ray: Any, threads: int) -> None:
    """Raises: Problem where no machine has as many cores; Ray would wait for one for ever."""
    cores = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    if cores < threads:
        raise Problem(
            f"a worker takes {threads} cores, the largest machine of the Ray cluster has {cores:.0f}",
            "Set OMP_NUM_THREADS to fewer.",
        )


@contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected: to the cluster of RAY_ADDRESS or of this machine; one is started here where there is none."""
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise Problem("Ray is not installed", install("ray")) from None
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise Problem(
                f"no Ray cluster can be reached ({in_one_line(error)})", "Check RAY_ADDRESS and `ray status`."
            ) from None
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()
