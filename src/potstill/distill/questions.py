"""Which training questions the student answers itself, and how its words are drawn.

In:  the run's prompts, a tokenizer, a seed, the number of a step.
Out: questions and requests, the same ones for the same step.
Does not know: who writes the answers, what they are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from potstill.answers import answers_of
from potstill.distill.current import Request
from potstill.models.conversation import messages, question_ids
from potstill.models.engine import Sampling, derive_seed
from potstill.problem import Problem
from potstill.prompts import Prompt
from potstill.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Question:
    """A training prompt that fits.

    Args:
        prompt: the prompt. tokens: of the templated question.
    """

    prompt: Prompt
    tokens: int


@dataclass(frozen=True)
class Questions:
    """The training's questions, some of which are drawn for a writing.

    Args:
        known: those that leave room for an answer. seed: of the draws. max_tokens: longest answer.
    """

    known: Sequence[Question]
    seed: int
    max_tokens: int

    @classmethod
    def of_run(cls, run: Run, tokenizer: PreTrainedTokenizerBase, max_tokens: int, seed: int) -> Questions:
        """`that_fit` of a run's prompts that have an answer."""
        prompts = [answer.prompt for answer in answers_of(run)]
        return cls.that_fit(prompts, tokenizer, run.recipe.signals.context, max_tokens, seed)

    @classmethod
    def that_fit(
        cls, prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, context: int, max_tokens: int, seed: int
    ) -> Questions:
        """Questions of the training split that fit into `context` with an answer. Raises: Problem where none does."""
        counted = [
            Question(prompt, len(question_ids(tokenizer, prompt.text))) for prompt in prompts if prompt.split == "train"
        ]
        known = [question for question in counted if question.tokens + max_tokens <= context]
        if not known:
            raise Problem(
                f"no training question leaves {max_tokens} tokens of room for an answer (signals.context = {context})",
                "Raise signals.context, or lower max_tokens of the student's own answers.",
            )
        return cls(known, seed, max_tokens)

    def draw(self, step: int, count: int) -> list[Question]:
        """`count` questions (all, where there are fewer), the same ones for the same step."""
        places = np.random.default_rng((self.seed, step)).permutation(len(self.known))[:count]
        return [self.known[place] for place in places]

    def requests(self, chosen: Sequence[Question], step: int, samples: int, temperature: float) -> list[Request]:
        """`samples` requests a question, question by question, each with its own seed."""
        seed = derive_seed(self.seed, step)
        return [
            (messages(question.prompt.text), _sampling(temperature, derive_seed(seed, number), self.max_tokens))
            for number, question in enumerate(question for question in chosen for _ in range(samples))
        ]


def _sampling(temperature: float, seed: int, max_tokens: int) -> Sampling:
    # nothing cut away: what is drawn must be what the student's own distribution says
    return Sampling(temperature=temperature, top_p=1.0, top_k=0, seed=seed, max_tokens=max_tokens, repeat_penalty=1.0)
