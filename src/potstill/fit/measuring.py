"""How fast students of given shapes are here: real files of random weights, timed in turn.

In:  candidates, what they are made of, questions.
Out: `Timed`: tokens a second, first token, memory and file size of each, with the spread over rounds.
Does not know: limits, quality.

Speed does not depend on what the weights are, only on how many there are and how they are packed. So each candidate
is written as a GGUF of random weights. Candidates take turns round by round: what drifts drifts for all of them.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from potstill.fit.candidates import Candidate, Material
from potstill.machine import processor_name, usable_cores
from potstill.models.conversation import messages
from potstill.models.engine import Threads
from potstill.models.mix import Mix
from potstill.models.speed import SpeedSample, candidate_threads, fastest, is_idle, measure, sample_from, trial_rates
from potstill.notebook import Notebook
from potstill.progress import Progress, Silent, Task
from potstill.prune.shape import student_config
from potstill.recipe import EvaluateSection
from potstill.run import describe_machine, digest


@dataclass(frozen=True)
class Spread:
    """The median over rounds, and their range."""

    value: float
    low: float
    high: float

    @classmethod
    def over(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Timed:
    """One candidate on this machine.

    Args:
        threads: the setting it was fastest with in a short trial. rounds: processes behind each number.
    """

    candidate: Candidate
    threads: Threads
    rounds: int
    decode_tok_s: Spread
    first_token_ms: Spread
    memory_mb: float
    size_mb: float

    def reached(self) -> dict[str, float]:
        """What limits are compared with, by their names."""
        return {
            "decode_tok_s": self.decode_tok_s.value,
            "first_token_ms": self.first_token_ms.value,
            "memory_mb": self.memory_mb,
            "size_mb": self.size_mb,
        }


class RandomFiles:
    """Candidates as GGUFs of random weights, each written when it is first wanted, all removed in the end."""

    def __init__(self, folder: Path, material: Material, tokenizer: Path) -> None:
        """`tokenizer`: folder with the tokenizer of the students."""
        self._folder, self._material, self._tokenizer = folder, material, tokenizer

    @contextmanager
    def kept(self) -> Iterator[RandomFiles]:
        """The folder exists within the context; what a killed process left in it is removed first."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        try:
            yield self
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def path(self, candidate: Candidate) -> Path:
        """The file. Raises: Problem where the disk is too full."""
        spec = candidate.spec
        path = self._folder / f"{spec.layers}-{spec.ffn}-{spec.hidden}.gguf"
        if not path.exists():
            self._write(candidate, path)
        return path

    def _write(self, candidate: Candidate, path: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from potstill.models.checkpoint import save_checkpoint
        from potstill.models.gguf import write_gguf

        torch.manual_seed(0)
        config = student_config(self._material.config, candidate.spec, self._material.vocabulary)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        checkpoint = self._folder / "checkpoint"
        save_checkpoint(model, self._tokenizer, checkpoint, torch.bfloat16, "")
        metadata = {"general.name": f"random weights, {candidate.name}"}
        write_gguf(checkpoint, path, self._material.quantisation, metadata=metadata, progress=Silent())
        shutil.rmtree(checkpoint)


@dataclass(frozen=True)
class Clock:
    """How candidates are timed: the same questions, tokens and rounds for all.

    Args:
        quantisation: the number format, as results are kept by it.
    """

    quantisation: str | Mix
    questions: Sequence[str]
    section: EvaluateSection
    notebook: Notebook

    def time_all(self, candidates: Sequence[Candidate], files: RandomFiles, progress: Progress) -> list[Timed]:
        """Every candidate's threads by a short trial, then all in turn, round by round.

        Each result is kept as it comes; what is known already is not measured again.
        """
        steps = len(candidates) * (1 + self.section.rounds)
        settings = candidate_threads(usable_cores(), idle=self._idle(progress))
        with files.kept(), progress.task("shapes timed", steps, "runs") as task:
            threads = [self._threads(candidate, files, settings, task) for candidate in candidates]
            samples: list[list[SpeedSample]] = [[] for _ in candidates]
            for turn in range(self.section.rounds):
                for place, candidate in enumerate(candidates):
                    samples[place].append(self._sample(candidate, files, threads[place], turn, task))
        sizes = [float(self.notebook[self._key(candidate, "megabytes")]) for candidate in candidates]
        return [_timed(*each) for each in zip(candidates, threads, samples, sizes, strict=True)]

    def _idle(self, progress: Progress) -> bool:
        idle = is_idle()
        if not idle:
            progress.say("This machine is busy with something else: what is measured now is slower than it could be.")
        return idle

    def _threads(self, candidate: Candidate, files: RandomFiles, settings: Sequence[Threads], task: Task) -> Threads:
        key = self._key(candidate, "threads")
        task.describe(candidate.name)
        if key not in self.notebook:
            path = files.path(candidate)
            talks = [messages(text) for text in self.questions[:1]]
            section = self.section
            rates = trial_rates(path, settings, talks, new_tokens=section.new_tokens, context=section.context)
            self.notebook.put(self._key(candidate, "megabytes"), path.stat().st_size / 1e6)
            self.notebook.put(key, asdict(fastest(settings, rates)))
            task.advance()
        else:
            task.resume(1)
        return Threads(**self.notebook[key])

    def _sample(self, candidate: Candidate, files: RandomFiles, threads: Threads, turn: int, task: Task) -> SpeedSample:
        key = self._key(candidate, f"round {turn}")
        task.describe(candidate.name)
        if key not in self.notebook:
            talks = [messages(text) for text in self.questions]
            section = self.section
            path = files.path(candidate)
            sample = measure(path, threads, talks, new_tokens=section.new_tokens, context=section.context)
            self.notebook.put(key, asdict(sample))
            task.advance()
        else:
            task.resume(1)
        return sample_from(self.notebook[key])

    def _key(self, candidate: Candidate, what: str) -> str:
        """By shape and settings: another machine, type, vocabulary or other questions are measured anew."""
        section = self.section
        machine = [describe_machine(), processor_name()]
        asked = [*self.questions, section.new_tokens, section.context, *machine]
        return f"{candidate.name}, {what}, {digest([asdict(candidate.spec), str(self.quantisation), asked])}"


def _timed(candidate: Candidate, threads: Threads, samples: Sequence[SpeedSample], size_mb: float) -> Timed:
    return Timed(
        candidate,
        threads,
        len(samples),
        Spread.over([statistics.median(sample.decode_tok_s) for sample in samples]),
        Spread.over([statistics.median(sample.first_token_ms) for sample in samples]),
        max(sample.peak_mb for sample in samples),
        size_mb,
    )
