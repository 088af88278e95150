"""The student writes, the teacher reads what it wrote: signals for the mistakes the student really makes.

In:  the student's own answers, a teacher that reads them.
Out: micro-batches of these answers with the teacher's rows, by share.
Does not know: how the words are written, losses, the trainer.

Source: generalised knowledge distillation, arXiv:2306.13649.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from potstill.answers.answer import Answer
from potstill.answers.tokenize import tokenize
from potstill.distill.batches import collate
from potstill.distill.companion import Batch, Companion
from potstill.distill.notes import StepNotes
from potstill.models.examples import Example, batches_by_length
from potstill.models.reading import LAST, read_states
from potstill.signals.formats import HiddenRows, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from potstill.distill.current import Writer
    from potstill.distill.questions import Questions
    from potstill.recipe import OnPolicySection
    from potstill.run import Run
    from potstill.signals.store import SignalStore

NOTES = "on_policy.json"


class Reader(Protocol):
    """What this companion needs of a teacher."""

    @property
    def head(self) -> Tensor:
        """[V, D] its head over the student's tokens."""

    def read(self, examples: Sequence[Example]) -> list[Tensor]:
        """[n, D] last states at the answer positions of each example."""


@dataclass(frozen=True)
class TeacherReader:
    """A loaded teacher that reads the student's ids.

    Args:
        model: the teacher. teacher_ids: [V] its id of each student id. head: [V, D] its head over them.
        batch_tokens: positions read at once.
    """

    model: PreTrainedModel
    teacher_ids: Tensor
    head: Tensor
    batch_tokens: int

    def read(self, examples: Sequence[Example]) -> list[Tensor]:
        """[n, D] last states at the answer positions of each example."""
        states = dict(read_states(self.model, examples, self.teacher_ids, (), self.batch_tokens))
        # copies are ordinary tensors, which a loss may take; those of inference mode are not
        return [states[place][LAST].clone() for place in range(len(examples))]


class OnPolicy(Companion):
    """Keeps a buffer of the student's latest answers and gives micro-batches of it.

    The buffer is not in checkpoints: a resumed training begins with a writing of its own, by the checkpoint's weights.
    Which micro-batches come from it depends on seed and step alone.

    Args:
        tokenizer: the student's. section: the recipe's. questions: what may be asked.
        writer: the student's words. reader: the teacher.
        context: longest question and answer. batch_tokens: padded tokens a micro-batch. seed: of the draws.
        notes: what earlier writings of this training took. tell: what is under way, for a person.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        section: OnPolicySection,
        questions: Questions,
        writer: Writer,
        reader: Reader,
        *,
        context: int,
        batch_tokens: int,
        seed: int,
        notes: StepNotes,
        tell: Callable[[str], None],
    ) -> None:
        self.tokenizer, self.section, self.questions, self.context = tokenizer, section, questions, context
        self.writer, self.reader, self.batch_tokens, self.seed = writer, reader, batch_tokens, seed
        self.notes, self.tell = notes, tell
        self._examples: list[Example] = []
        self._states: list[Tensor] = []
        self._batches: list[list[int]] = []
        self._written = False
        self._draws = np.random.default_rng(seed)
        self._given = 0

    def begin_step(self, step: int, progress: float) -> None:
        """Write and read, where it is due or nothing has been written yet."""
        if step % self.section.every == 0 or not self._written:
            self._renew(step)
        self._draws = np.random.default_rng((self.seed, step))

    def batch(self) -> tuple[Batch, Rows] | None:
        """A micro-batch of the student's own answers, by chance."""
        if self._draws.random() >= self.section.share or not self._batches:
            return None
        numbers = self._batches[self._draws.integers(len(self._batches))]
        self._given += 1
        rows = HiddenRows(torch.cat([self._states[number] for number in numbers]), self.reader.head)
        return collate(self._examples, numbers), rows

    def end(self) -> dict[str, Any]:
        """Counts over the whole training; micro-batches of this process alone."""
        names = ("answers", "tokens_written", "tokens_read", "seconds_writing", "seconds_reading")
        return {
            "on_policy": {
                "writings": len(self.notes),
                **{name: round(self.notes.sum(name), 1) for name in names},
                "micro_batches": self._given,
            }
        }

    def _renew(self, step: int) -> None:
        chosen = self.questions.draw(step, self.section.questions)
        requests = self.questions.requests(chosen, step, 1, self.section.temperature)
        self.tell(f"the student answers {len(chosen)} questions for the teacher to read")
        started = time.monotonic()
        replies = self.writer.write(requests)
        written = time.monotonic()
        answers = [
            Answer(question.prompt, reply.text, reply.finish, reply.tokens, None)
            for question, reply in zip(chosen, replies, strict=True)
        ]
        self._examples = tokenize(self.tokenizer, answers, self.context)
        self._states = self.reader.read(self._examples)
        self._batches = batches_by_length([len(example.ids) for example in self._examples], self.batch_tokens)
        self._written = True
        self.notes.note(
            step,
            {
                "answers": len(replies),
                "tokens_written": sum(reply.tokens for reply in replies),
                "tokens_read": sum(len(example.ids) for example in self._examples),
                "seconds_writing": written - started,
                "seconds_reading": time.monotonic() - written,
            },
        )


def open_on_policy(
    run: Run,
    folder: Path,
    student: PreTrainedModel,
    store: SignalStore,
    dtype: torch.dtype,
    tell: Callable[[str], None],
) -> OnPolicy:
    """The companion that the recipe asks for; the teacher stays in memory as long as it lives.

    Args:
        folder: the stage's partial folder. student: the model in training. store: the signals trained on.
        dtype: of the matrix products. tell: shows what is under way.

    Raises: Problem where the teacher can't read the student's tokens, or no question leaves room for an answer.
    """
    from potstill.distill.current import CurrentWriter
    from potstill.distill.questions import Questions
    from potstill.models.teacher import load_tokenizer

    section = run.recipe.distill.on_policy
    reader = _load_reader(run, store)
    tokenizer = load_tokenizer(run.stage("vocab"))
    seed = run.recipe.seed + 1  # not the questions that are asked for consistency in the same step
    return OnPolicy(
        tokenizer,
        section,
        Questions.of_run(run, tokenizer, section.max_tokens, seed),
        CurrentWriter(student, tokenizer, dtype),
        reader,
        context=run.recipe.signals.context,
        batch_tokens=run.recipe.distill.batch_tokens,
        seed=seed,
        notes=StepNotes(folder / NOTES),
        tell=tell,
    )


def _load_reader(run: Run, store: SignalStore) -> TeacherReader:
    from potstill.models.teacher import find_teacher, load_model
    from potstill.problem import Problem
    from potstill.run import DTYPE, read_json
    from potstill.signals.store import HEAD
    from potstill.vocab.map import MAP, VocabMap

    if store.form.kind == "bound":
        raise Problem(
            "distill.on_policy needs a student whose tokens are the teacher's; this one has a vocabulary of its own",
            "Set distill.on_policy.share = 0, or cut the student from the teacher (no prune.base).",
        )
    if not (store.folder / HEAD).exists():
        raise Problem(
            f"distill.on_policy needs the teacher's head, and {store.folder} does not hold it",
            'Set distill.on_policy.share = 0, or signals.format = "hidden".',
        )
    teacher = find_teacher(run.recipe.teacher.model, run.home, run.progress)
    # as the cached signals were read: the student should not see two teachers
    dtype = str(read_json(store.folder / DTYPE))
    model = load_model(teacher.checkpoint, getattr(torch, dtype))
    size = sum(part.numel() * part.element_size() for part in model.parameters()) / 1e6
    run.progress.say(f"on-policy: the teacher stays in memory beside the student ({size:,.0f} MB, {dtype})")
    teacher_ids = torch.from_numpy(VocabMap.load(run.stage("vocab") / MAP).teacher_ids)
    return TeacherReader(model, teacher_ids, store.head, run.recipe.signals.batch_tokens)
