"""Several answers to one question should mean the same: a reward for it, and the gradient that raises it.

In:  the student, what it says to a training question several times, sentence embeddings.
Out: a policy-gradient loss every so many steps; the mean similarity before and after.
Does not know: how the words are written, the teacher, the trainer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from potstill.answers.answer import Answer
from potstill.answers.tokenize import tokenize
from potstill.distill.batches import collate
from potstill.distill.companion import Companion
from potstill.distill.notes import StepNotes
from potstill.models.anatomy import body, head_weight
from potstill.models.embedder import Embed, meanings
from potstill.models.examples import Example, batches_by_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from potstill.distill.current import Writer
    from potstill.distill.questions import Question, Questions
    from potstill.models.engine import Reply
    from potstill.recipe import ConsistencySection
    from potstill.run import Run

Floats = NDArray[np.float64]
NOTES = "consistency.json"


def policy_gradient_loss(log_probabilities: Tensor, mask: Tensor, advantages: Tensor) -> Tensor:
    """-mean over answers of advantage × mean token log-probability.

    Args:
        log_probabilities: [m, T] of the answers' own tokens; gradients flow through it alone.
        mask: [m, T] 1 where an answer has a token; an answer without one counts as 0.
        advantages: [m] how much better than expected each answer was.

    Returns: scalar float32, nats. Its value means little; its gradient makes better answers likelier.
    Source: Williams 1992 (REINFORCE); as here for whole answers, arXiv:2402.14740.
    """
    kept = mask.detach().float()
    masked = torch.where(kept > 0, log_probabilities.float(), 0.0)
    means = masked.sum(dim=1) / kept.sum(dim=1).clamp(min=1.0)
    return -(advantages.detach().float() * means).mean()


def agreement(vectors: Floats) -> Floats:
    """[n] mean cosine of each answer to the other answers of its question.

    Args:
        vectors: [n, d] unit vectors, n >= 2. An empty answer is a zero row: it agrees with nothing, not even with
            another empty one, or a student that says nothing would be the best.
    """
    cosines = vectors @ vectors.T
    return np.asarray((cosines.sum(axis=1) - np.diag(cosines)) / (len(vectors) - 1))


def advantages(rewards: Floats) -> Floats:
    """[n] each reward less the mean of the others': the leave-one-out baseline.

    An answer counts in the others' rewards too, but without a clip that only shrinks all advantages, by
    (n - 2) / (n - 1), against a baseline without it. So with n = 2 nothing is left.

    Args:
        rewards: [n] of one question's answers, n >= 2.

    Source: RLOO, arXiv:2402.14740.
    """
    others = (rewards.sum() - rewards) / (len(rewards) - 1)
    return np.asarray(rewards - others)


@dataclass(frozen=True)
class Sampled:
    """Answers to some questions, several to each.

    Args:
        examples: the answers that have a token. advantages: [m] of those answers.
        similarity: mean agreement over all answers, before the clip. reward: mean after it.
        answers, empty, tokens: counts of all answers.
    """

    examples: Sequence[Example]
    advantages: Tensor
    similarity: float
    reward: float
    answers: int
    empty: int
    tokens: int


class Consistency(Companion):
    """Samples answers, rewards those that mean what their siblings mean.

    Args:
        student: the model in training. tokenizer: its own.
        section: the recipe's. questions: what may be asked. writer: the student's words. embed: their meaning.
        dtype: of the matrix products. batch_tokens, chunk_rows: how much is computed at once.
        notes: what earlier samplings of this training found. tell: what is under way, for a person.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        section: ConsistencySection,
        questions: Questions,
        writer: Writer,
        embed: Embed,
        *,
        dtype: torch.dtype,
        batch_tokens: int,
        chunk_rows: int,
        notes: StepNotes,
        tell: Callable[[str], None],
    ) -> None:
        self.student, self.tokenizer, self.section, self.questions = student, tokenizer, section, questions
        self.writer, self.embed, self.notes, self.tell = writer, embed, notes, tell
        self.dtype, self.batch_tokens, self.chunk_rows = dtype, batch_tokens, chunk_rows
        self._sampled: Sampled | None = None

    def begin_step(self, step: int, progress: float) -> None:
        """Sample, where it is due."""
        self._sampled = None
        if step % self.section.every == 0:
            started = time.monotonic()
            self._sampled = self._sample(step)
            self.notes.note(step, _numbers(self._sampled) | {"seconds": time.monotonic() - started})

    def losses(self) -> dict[str, Tensor]:
        """The weighted loss, at a step with a sampling and in which some answer was better than another."""
        sampled = self._sampled
        if sampled is None or not sampled.examples or not bool(sampled.advantages.any()):
            return {}
        batches = batches_by_length([len(one.ids) for one in sampled.examples], self.batch_tokens)
        total = torch.zeros(())
        for batch in batches:
            scores, mask = self._log_probabilities([sampled.examples[place] for place in batch])
            part = policy_gradient_loss(scores, mask, sampled.advantages[batch])
            total = total + part * (len(batch) / sampled.answers)
        return {"consistency": self.section.weight * total}

    def end(self) -> dict[str, Any]:
        """Sample as at the first step once more: same questions, same seeds, other weights."""
        first = self.notes.first()
        if first is None:
            return {}
        step, before = first
        after = self._sample(step)
        return {
            "consistency": {
                "similarity_before": before["similarity"],
                "similarity_after": after.similarity,
                "reward_before": before["reward"],
                "reward_after": after.reward,
                "answers_compared": after.answers,
                "empty_before": before["empty"],
                "empty_after": after.empty,
                "samplings": len(self.notes),
                "answers": self.notes.sum("answers"),
                "tokens": self.notes.sum("tokens"),
                "seconds": round(self.notes.sum("seconds"), 1),
            }
        }

    def _sample(self, step: int) -> Sampled:
        section = self.section
        chosen = self.questions.draw(step, section.questions)
        requests = self.questions.requests(chosen, step, section.samples, section.temperature)
        self.tell(f"the student answers {len(chosen)} questions {section.samples} times each")
        return self._judge(chosen, self.writer.write(requests))

    def _judge(self, chosen: Sequence[Question], replies: Sequence[Reply]) -> Sampled:
        vectors = meanings([reply.text for reply in replies], self.embed)
        similarity = np.concatenate([agreement(part) for part in np.split(vectors, len(chosen))])
        rewards = similarity.clip(max=self.section.clip)
        gained = np.concatenate([advantages(part) for part in np.split(rewards, len(chosen))])
        examples, kept = [], []
        for place, reply in enumerate(replies):
            prompt = chosen[place // self.section.samples].prompt
            answer = Answer(prompt, reply.text, reply.finish, reply.tokens, None)
            # its ids are the text's own; what was drawn may have been spelt with other tokens
            if found := tokenize(self.tokenizer, [answer], context=2**31):
                examples += found
                kept.append(gained[place])
        return Sampled(
            examples=examples,
            advantages=torch.tensor(np.array(kept), dtype=torch.float32),
            similarity=float(similarity.mean()),
            reward=float(rewards.mean()),
            answers=len(replies),
            empty=sum(not reply.text.strip() for reply in replies),
            tokens=sum(reply.tokens for reply in replies),
        )

    def _log_probabilities(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """[m, T] log-probabilities of the answers' tokens, and the mask of those there are.

        Of the distribution that was drawn from, at its temperature. Activations are computed again in the backward
        pass: one batch of them is all that this loss ever adds to a step's memory.
        """
        batch = {name: part.to(self.student.device) for name, part in collate(examples, range(len(examples))).items()}
        flat: Tensor = checkpoint(self._token_scores, batch, use_reentrant=False).cpu()
        lengths = torch.tensor([example.rows for example in examples])
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        return torch.zeros(mask.shape).masked_scatter(mask, flat), mask

    def _token_scores(self, batch: dict[str, Tensor]) -> Tensor:
        ids, weight = batch["input_ids"], head_weight(self.student)
        with torch.autocast(ids.device.type, self.dtype, enabled=self.dtype != torch.float32):
            states = body(self.student)(input_ids=ids, use_cache=False).last_hidden_state
        rows, tokens = states.flatten(0, 1)[batch["rows"]], batch["labels"]
        parts = zip(rows.split(self.chunk_rows), tokens.split(self.chunk_rows), strict=True)
        return torch.cat([checkpoint(self._scores, part, weight, own, use_reentrant=False) for part, own in parts])

    def _scores(self, states: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
        logits = (states.to(self.dtype) @ weight.to(self.dtype).T).float() / self.section.temperature
        return logits.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]


def open_consistency(
    run: Run, folder: Path, student: PreTrainedModel, dtype: torch.dtype, tell: Callable[[str], None]
) -> Consistency:
    """The companion that the recipe asks for.

    Args:
        folder: the stage's partial folder. student: the model in training. dtype: of its matrix products.
        tell: shows what is under way.

    Raises: Problem where the embedder can't be loaded, or no question leaves room for an answer.
    """
    from potstill.distill.current import CurrentWriter
    from potstill.distill.questions import Questions
    from potstill.models.embedder import open_embedder
    from potstill.models.teacher import load_tokenizer

    section = run.recipe.distill.consistency
    tokenizer = load_tokenizer(run.stage("vocab"))
    return Consistency(
        student,
        tokenizer,
        section,
        Questions.of_run(run, tokenizer, section.max_tokens, run.recipe.seed),
        CurrentWriter(student, tokenizer, dtype),
        open_embedder(section.embedder).embed,
        dtype=dtype,
        batch_tokens=run.recipe.distill.batch_tokens,
        chunk_rows=run.recipe.distill.chunk_rows,
        notes=StepNotes(folder / NOTES),
        tell=tell,
    )


def _numbers(sampled: Sampled) -> dict[str, float]:
    names = ("similarity", "reward", "answers", "empty", "tokens")
    return {name: getattr(sampled, name) for name in names}
