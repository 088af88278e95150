"""One measurement: a runner in a process of its own, its result kept as JSON.

In:  a contestant, a job, where results lie.
Out: a `Result`, from the disk where the same was measured before; a failure is a result too.
Does not know: what is measured, how it is shown.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from potstill.problem import Problem
from potstill.run import digest, read_json, write_json

from .environments import Unavailable, python_of

RUNNERS = Path(__file__).parent / "runners"
Job = dict[str, Any]


@dataclass(frozen=True)
class Contestant:
    """Who is measured.

    Args:
        name: for people. runner: a script of `runners/`. peer: whose environment runs it; None: this Python.
        job: what sets it apart from others with the same runner.
    """

    name: str
    runner: str
    peer: str | None = None
    job: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Result:
    """What one process said.

    Args:
        asked: hash of the job. steps: (seconds, tokens), both since the start. said: everything else, by kind.
        failed: why there is nothing more; None where all went well.
    """

    name: str
    asked: str
    steps: list[tuple[float, int]] = field(default_factory=list)
    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: str | None = None


@dataclass(frozen=True)
class Conductor:
    """Starts runners and keeps what they say.

    Args:
        folder: of this comparison. environments: where peers are installed. threads: of every process.
        say: one line for a person. failures: (part, name) → why; who failed once takes no more part in this command.
    """

    folder: Path
    environments: Path
    threads: int
    say: Callable[[str], None]
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def measure(self, part: str, contestant: Contestant, number: int, job: Job) -> Result:
        """What the contestant's runner says of the job in round `number` of a part."""
        whole = {**job, **contestant.job}
        return self.keep(part, contestant.name, number, whole, lambda result: self._run(contestant, whole, result))

    def keep(self, part: str, name: str, number: int, job: Job, work: Callable[[Result], None]) -> Result:
        """The result that is kept where the same job succeeded before; else `work` is done, and the result kept.

        What the work cannot do is a result too; the next command tries it again.
        """
        path = self.folder / "results" / part / f"{name}-{number}.json"
        asked = digest({"job": job, "threads": self.threads, "runners": runners_digest()})
        if path.exists():
            kept = Result(**read_json(path))
            if kept.asked == asked and kept.failed is None:
                return kept
        result = Result(name, asked, failed=self.failures.get((part, name)))
        if result.failed:
            return result
        self.say(f"[{part}, round {number + 1}] {name}")
        begin = time.perf_counter()
        try:
            work(result)
        except (Unavailable, Problem) as reason:
            result.failed = str(reason)
        if result.failed:
            self.failures[part, name] = result.failed
        self.say(f"  {result.failed or f'{time.perf_counter() - begin:.0f} s'}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(result))
        return result

    def require(self, part: str, contestant: Contestant, number: int, job: Job) -> Result:
        """As `measure`. Raises: Problem where it failed: the rest needs it."""
        result = self.measure(part, contestant, number, job)
        if result.failed:
            raise Problem(f"{part} of {contestant.name} failed: {result.failed}", f"See {self._log(contestant)}.")
        return result

    def environment(self) -> dict[str, str]:
        """The same for everybody: so many threads, no network, no questions; compiled modules are kept."""
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONIOENCODING": "utf-8"}
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**kept, **quiet, "OMP_NUM_THREADS": str(self.threads)}

    def python(self, peer: str | None) -> Path:
        """A peer's interpreter, or ours. Raises: Unavailable."""
        return Path(sys.executable) if peer is None else python_of(peer, self.environments)

    def _run(self, contestant: Contestant, job: Job, result: Result) -> None:
        command = [str(self.python(contestant.peer)), str(RUNNERS / contestant.runner)]
        log = self._log(contestant)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                env=self.environment(),
            )
            try:
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write(json.dumps(job))
                process.stdin.close()
                for line in process.stdout:
                    _take(json.loads(line), result)
                process.wait()
            finally:
                process.kill()
        if process.returncode and result.failed is None:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            result.failed = f"exit code {process.returncode}: {lines[-1] if lines else 'it said nothing'}"

    def _log(self, contestant: Contestant) -> Path:
        return self.folder / "logs" / f"{contestant.name}.txt"


@cache
def runners_digest() -> str:
    """Changes with every runner: what another one measured is not shown as this one's."""
    return digest({path.name: path.read_text(encoding="utf-8") for path in sorted(RUNNERS.glob("*.py"))})


def _take(event: dict[str, Any], result: Result) -> None:
    kind = event.pop("kind")
    if kind == "step":
        result.steps.append((event["seconds"], event["tokens"]))
    elif kind == "failed":
        result.failed = event["why"]
    else:
        result.said.setdefault(kind, {}).update(event)
