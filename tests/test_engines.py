"""Work over a Ray cluster: what one process makes, value for value, whoever is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from answers.fakes import own, run_with
from potstill import signals
from potstill.answers import write_answers
from potstill.engines import LOCAL, RAY, results
from potstill.problem import Problem
from potstill.run import Run, read_json
from potstill.vocab import build_vocabulary


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # workers find this module
        patch.setenv("RAY_worker_niceness", "0")  # Ray's own 15: on a busy machine workers never get to their work
        try:
            ray.init("local", num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
            yield
        finally:
            ray.shutdown()


@dataclass(frozen=True)
class Dying:
    """Opens what `inner` opens; the first worker to get so far is killed in the middle of its second unit."""

    inner: Any
    grave: Path

    @contextmanager
    def __call__(self) -> Iterator[Any]:
        with self.inner() as work:
            done = 0

            def deadly(unit: Any) -> Iterator[Any]:
                nonlocal done
                for result in work(unit):
                    if done and not self.grave.exists():
                        self.grave.touch()
                        os.kill(os.getpid(), signal.SIGKILL)
                    yield result
                done += 1

            yield deadly


def squares(unit: int) -> Iterator[int]:
    if unit < 0:
        raise Problem("there is no such unit", "Choose another.")
    yield from (unit, unit * unit)


@contextmanager
def open_squares() -> Iterator[Any]:
    yield squares


def made(run: Run, stage: str, function: Any, engine: str) -> dict[str, Any]:
    """Do a stage as the conductor does; what it left, by name, without what tells of the clock."""
    with run.building(stage, "1") as folder:
        function(run, folder, engine)
    return {file.name: content(file) for file in run.stage(stage).iterdir() if file.name != "report.json"}


def content(file: Path) -> Any:
    """The bytes; safetensors writes its notes in any order, so there the header is read."""
    stored = file.read_bytes()
    if file.suffix != ".safetensors":
        return stored
    end = 8 + int.from_bytes(stored[:8], "little")
    return json.loads(stored[8:end]), stored[end:]


@pytest.fixture
def run(tmp_path: Path, tiny_checkpoint: Path) -> Run:
    settings = {"context": 128, "max_tokens": 8, "slots": 1, "temperature": 1.0, "writer": "together"}
    sections: dict[str, Any] = {
        "teacher": {"model": str(tiny_checkpoint)},
        "signals": {"group": 32, "shard_answers": 3},
        "vocab": {"size": 512, "expectation_tokens": 0, "coverage_tokens": 0},
    }
    return run_with(tmp_path / "run", own(12), answers=settings, **sections)


def test_here_units_come_in_order() -> None:
    assert list(results(LOCAL, [3, 1], squares, open_squares)) == [3, 9, 1, 1]
    with pytest.raises(Problem, match="there is no engine 'spark'"):
        results("spark", [1], squares, open_squares)


def test_without_ray_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Problem, match=r"-m pip install -e '\.\[ray\]'"):
        list(results(RAY, [1], squares, open_squares))


def test_a_killed_worker_loses_and_doubles_nothing(cluster: None, tmp_path: Path) -> None:
    units = list(range(8))
    over_ray = list(results(RAY, units, squares, Dying(open_squares, tmp_path / "grave")))
    assert (tmp_path / "grave").exists(), "nobody was killed"
    assert sorted(over_ray) == sorted(results(LOCAL, units, squares, open_squares))


def test_a_workers_problem_reaches_the_user(cluster: None) -> None:
    with pytest.raises(Problem, match="there is no such unit"):
        list(results(RAY, [1, -1], squares, open_squares))


def test_a_worker_that_fits_no_machine_is_not_waited_for(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    with pytest.raises(Problem, match="a worker takes 3 cores, the largest machine of the Ray cluster has 2"):
        list(results(RAY, [1], squares, open_squares))


def test_answers_and_signals_are_those_of_one_process(
    cluster: None, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("potstill.models.batch_writing.MOST_TEXTS", 4)  # three units
    monkeypatch.setattr("potstill.machine.fastest_dtype", lambda: "float32")  # a probe: not twice the same
    answers = made(run, "answers", write_answers, LOCAL)
    assert made(run, "answers", write_answers, RAY) == answers
    assert read_json(run.stage("answers") / "report.json")["engine"] == RAY
    with run.building("vocab", "1") as folder:
        build_vocabulary(run, folder)
    store = made(run, "signals", signals.teach, LOCAL)
    assert sum(name.startswith("train-") for name in store) == 4
    monkeypatch.setattr(signals, "results", lambda *given: results(*given[:3], Dying(given[3], tmp_path / "grave")))
    assert made(run, "signals", signals.teach, RAY) == store
    assert (tmp_path / "grave").exists(), "nobody was killed"
