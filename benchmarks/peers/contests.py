"""The five comparisons: who takes part in each, and what each is asked.

In:  the common material, what the command line chose, a conductor.
Out: results of one round of a part, in the order of the contestants.
Does not know: how a runner works, how results are shown.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.models.engine import Threads
from potstill.problem import Problem
from potstill.run import Run, read_json

from .conducting import RUNNERS, Conductor, Contestant, Job, Result
from .environments import Unavailable
from .material import Material, products

if TYPE_CHECKING:
    from potstill.models.examples import Example

YARDSTICK = Contestant("machine", "yardstick.py")
OURS = Contestant("potstill", "ours_training.py")
TRAINERS = (
    OURS,
    Contestant("TRL", "trl_gkd.py", "trl"),
    Contestant("Soup", "soup_distill.py", "soup"),
    Contestant("DistillKit", "distillkit_offline.py", "distillkit", {"do": "train"}),
)
ADAMW = {"learning_rate": 1e-5, "warmup": 0.2, "beta2": 0.95}
"""What all who train are given: the best found for AdamW on a healed student in five minutes (docs/log.md)."""
COUNTED = Contestant("potstill, reading counted", "ours_training.py")
"""As ours, with less time to train: what the teacher's reading took is taken off."""
READERS = (
    Contestant("potstill", "ours.py", job={"do": "collect"}),
    Contestant("transformers loop", "transformers_loop.py", job={"do": "collect"}),
    Contestant("DistillKit", "distillkit_offline.py", "distillkit", {"do": "collect"}),
)
KEPT = {"potstill": "potstill", "DistillKit": "DistillKit", COUNTED.name: "potstill"}
"""Trainer → the reader whose signals it is trained on."""
GENERATE = {f"transformers generate, {dtype}": dtype for dtype in ("bfloat16", "float32")}
"""Writer → the dtype it computes in: which one is faster differs between machines."""
STARTS = 3
"""Times that a program is started in a round; before the first round once more, to fill the system's cache."""


@dataclass(frozen=True)
class Choice:
    """What the command line chose, and what follows from the run.

    Args:
        batch: answers a step. steps: of the speed part. minutes: of the equal-time part. dtype: of matrix products.
        read: answers of the reading part. questions: of the writing part. new_tokens: written for each question.
        threads: of our engine.
    """

    batch: int
    steps: int
    minutes: float
    dtype: str
    read: int
    questions: int
    new_tokens: int
    threads: Threads


class Contests:
    """One comparison of a run, part by part."""

    def __init__(self, run: Run, material: Material, choice: Choice, conductor: Conductor) -> None:
        self.run, self.material, self.choice, self.conductor = run, material, choice, conductor

    def limits(self, number: int) -> list[Result]:
        """What the machine can do at most, at this time."""
        return [self.conductor.measure("limits", YARDSTICK, number, {"seconds": 6.0})]

    def reading(self, number: int) -> list[Result]:
        """The teacher reads some training answers, and what is needed for training is kept."""
        sample = self._text("sample", self.material.sample(self.choice.read))
        scratch = self.conductor.folder / "scratch"
        return [
            self.conductor.measure(
                "reading", reader, number, self._reading_job({"train": sample}, scratch / reader.name)
            )
            for reader in READERS
        ]

    def training(self, number: int) -> list[Result]:
        """Every trainer does the same steps on the same batches."""
        found = []
        for trainer in TRAINERS:
            job = self._training_job(trainer, number, self.choice.steps)
            found.append(self.conductor.measure("training", trainer, number, job))
        return found

    def time(self, number: int) -> list[Result]:
        """Every trainer has the same time; the judge then looks at what came of it, and at what all started from."""
        found = [self._judged(Result("start", ""), self.material.student, number)]
        for trainer in (OURS, COUNTED, *TRAINERS[1:]):
            minutes = self.choice.minutes - (self._reading_minutes() if trainer is COUNTED else 0.0)
            if minutes <= 0:
                found.append(Result(trainer.name, "", failed="reading alone takes longer than --minutes"))
                continue
            saved = self.conductor.folder / "saved" / trainer.name
            job = self._training_job(trainer, number, self._steps_within(trainer, minutes))
            result = self.conductor.measure("time", trainer, number, {**job, "minutes": minutes, "save": str(saved)})
            found.append(result if result.failed else self._judged(result, saved, number))
            if not found[-1].failed:
                shutil.rmtree(saved, ignore_errors=True)
        return found

    def writing(self, number: int) -> list[Result]:
        """Questions are answered greedily, one at a time."""
        job = {
            "do": "write",
            "student": str(self._trained()),
            "conversations": [[{"role": "user", "content": text}] for text in self._questions()],
            "new_tokens": self.choice.new_tokens,
            "context": self.run.recipe.evaluate.context,
            "threads": vars(self.choice.threads),
        }
        writers = [Contestant(name, "ours.py", job={"gguf": str(path)}) for name, path in self._ggufs().items()]
        writers += [Contestant(name, "transformers_loop.py", job={"dtype": dtype}) for name, dtype in GENERATE.items()]
        return [self.conductor.measure("writing", writer, number, job) for writer in writers]

    def weights(self) -> dict[str, int]:
        """Writer → bytes of weights that it reads for every token: its file, or the checkpoint in its dtype."""
        numbers = sum(products(self._trained()))
        sizes = {name: path.stat().st_size for name, path in self._ggufs().items()}
        return sizes | {name: numbers * (2 if dtype == "bfloat16" else 4) for name, dtype in GENERATE.items()}

    def starting(self, number: int) -> list[Result]:
        """Programs are started from nothing: to their end, or to the first piece of an answer."""
        return [self._start(name, command, first, number) for name, command, first in self._programs()]

    def _reading_minutes(self) -> float:
        result = self._keep(READERS[0])
        if result.failed:
            raise Problem(f"our own reading failed: {result.failed}", "See logs/potstill.txt beside the results.")
        return result.steps[-1][0] / 60

    def _keep(self, reader: Contestant) -> Result:
        """All training answers are read once: what trainers are given."""
        texts = {"train": self._text("train", self.material.train)}
        return self.conductor.measure("keeping", reader, 0, self._reading_job(texts, self._store(reader.name)))

    def _reading_job(self, texts: Mapping[str, Path], store: Path) -> Job:
        return {
            "teacher": str(self.material.teacher),
            "texts": {split: str(path) for split, path in texts.items()},
            "store": str(store),
            "dtype": self.choice.dtype,
            "batch_tokens": self.run.recipe.signals.batch_tokens,
            "recipe": str(self.run.folder / "recipe.json"),
        }

    def _training_job(self, trainer: Contestant, number: int, steps: int) -> Job:
        for reader in READERS:
            if KEPT.get(trainer.name) == reader.name:
                self._keep(reader)
        batches = self.conductor.folder / "material" / f"batches-{number}-{steps}.jsonl"
        self.material.write_batches(batches, steps, self.choice.batch, number)
        scratch = self.conductor.folder / "scratch" / trainer.name
        scratch.mkdir(parents=True, exist_ok=True)
        return {
            "teacher": str(self.material.teacher),
            "student": str(self.material.student),
            "train": str(batches),
            "store": str(self._store(KEPT.get(trainer.name, ""))),
            "recipe": str(self.run.folder / "recipe.json"),
            "scratch": str(scratch),
            "save": None,
            "batch": self.choice.batch,
            "steps": steps,
            "minutes": None,
            "max_length": self.run.recipe.signals.context,
            **ADAMW,
            "dtype": self.choice.dtype,
            "seed": number,
        }

    def _steps_within(self, trainer: Contestant, minutes: float) -> int:
        """More steps than it can do in the time: four times what it managed in the part before."""
        plain = OURS if trainer is COUNTED else trainer
        job = self._training_job(plain, 0, self.choice.steps)
        result = self.conductor.measure("training", plain, 0, job)
        if result.failed or len(result.steps) < 2:
            return self.choice.steps
        return math.ceil(4 * 60 * minutes / step_seconds(result))

    def _judged(self, result: Result, checkpoint: Path, number: int) -> Result:
        """The result with what the judge says; a judgement is kept under the contestant's name."""
        judge = Contestant(result.name, "ours.py", job={"do": "evaluate"})
        job = {"store": str(self._held_out()), "checkpoint": str(checkpoint), "of": result.asked}
        verdict = self.conductor.measure("judging", judge, number, job)
        result.failed = verdict.failed
        result.said |= {"fidelity": verdict.said.get("fidelity", {})}
        return result

    def _held_out(self) -> Path:
        store, text = self._store("held-out"), self._text("held-out", self.material.held_out)
        job = {"do": "collect", **self._reading_job({"train": text, "held-out": text}, store)}
        self.conductor.require("judging", Contestant("teacher", "ours.py"), 0, job)
        return store

    def _text(self, name: str, examples: Sequence[Example]) -> Path:
        path = self.conductor.folder / "material" / f"{name}.jsonl"
        self.material.write(path, examples)
        return path

    def _store(self, name: str) -> Path:
        return self.conductor.folder / "stores" / (name or "none")

    def _trained(self) -> Path:
        return self.run.stage("distill") / "student"

    def _ggufs(self) -> dict[str, Path]:
        folder = self.run.stage("export")
        files = sorted(read_json(folder / "report.json")["files"], key=lambda file: str(file["name"]))
        return {f"potstill, {file['type']}": folder / str(file["name"]) for file in files}

    def _questions(self) -> list[str]:
        room = self.run.recipe.evaluate.context - self.choice.new_tokens
        texts = [self.material.answers[one.id].prompt.text for one in self.material.held_out if one.start <= room]
        return texts[: self.choice.questions]

    def _programs(self) -> list[tuple[str, Sequence[str] | str, bool]]:
        """Name, command (or why there is none), whether the first output is what counts."""
        here = Path(sys.executable).parent
        gguf, question = str(self._shipped()), self._questions()[0]
        server = [sys.executable, str(RUNNERS / "llama_server.py")]
        binary = shutil.which("llama-server")
        return [
            ("python -c pass", [sys.executable, "-c", "pass"], False),
            ("potstill --help", [str(here / "potstill"), "--help"], False),
            ("soup --help", self._peer_command("soup", "soup"), False),
            ("potstill chat, first token", [str(here / "potstill"), "chat", gguf, "--once", question], True),
            ("llama.cpp server in the binding, first token", [*server, "binding", gguf, question], True),
            (
                "llama-server, first token",
                [*server, binary, gguf, question] if binary else "no llama-server on this machine's PATH",
                True,
            ),
        ]

    def _peer_command(self, peer: str, program: str) -> list[str] | str:
        try:
            return [str(self.conductor.python(peer).parent / program), "--help"]
        except Unavailable as reason:
            return str(reason)

    def _shipped(self) -> Path:
        from potstill.export import gguf_path

        return gguf_path(self.run, self.run.recipe.export.ship)

    def _start(self, name: str, command: Sequence[str] | str, first: bool, number: int) -> Result:
        def start(result: Result) -> None:
            if isinstance(command, str):
                raise Unavailable(command)
            environment = self.conductor.environment()
            times = [start_seconds(command, first, environment) for _ in range(STARTS + (number == 0))]
            result.steps = [(seconds, 0) for seconds in times[-STARTS:]]

        return self.conductor.keep("starting", name, number, {"command": command}, start)


def step_seconds(result: Result) -> float:
    """Mean seconds of a step, the first one left out: it warms up."""
    return (result.steps[-1][0] - result.steps[0][0]) / (len(result.steps) - 1)


def tokens_per_second(result: Result) -> float:
    """Tokens a second of training, the first step left out."""
    return (result.steps[-1][1] - result.steps[0][1]) / (len(result.steps) - 1) / step_seconds(result)


def start_seconds(command: Sequence[str], first: bool, environment: dict[str, str]) -> float:
    """From the start of a program to its first output, or to its end. Raises: Problem where it fails."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    try:
        process.stdout.read(1 if first else -1)
        seconds = time.perf_counter() - begin
        _, errors = process.communicate()
    finally:
        process.kill()
    if process.returncode:
        last = errors.decode(errors="replace").strip().splitlines()[-1:] or [""]
        raise Problem(f"{' '.join(command[:2])} failed: {last[0]}", "Run it by hand to see why.")
    return seconds
