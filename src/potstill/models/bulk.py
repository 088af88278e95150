"""Bulk: many conversations answered by a Transformers model, side by side.

In:  a model, its tokenizer, conversations, sampling settings.
Out: replies, as they are finished; lengths of prompts before any work.
Does not know: recipes, runs, what the replies are for.

What `Engine` is for people who wait, this is for thousands of answers that nobody waits for: see `batch_writing`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.models.batch_writing import Written, batches, write_together
from potstill.models.conversation import conversation_ids, end_of_turn, text_ids
from potstill.models.engine import Messages, Reply, Sampling, derive_seed

REPLACEMENT = "\ufffd"
"""What decoding gives for bytes that are no character."""


class BulkWriter:
    """A loaded model that writes many answers at once.

    A batch repeats itself word for word on the same machine; in other company a text may take another turn where two
    tokens are equally likely, as rounding depends on the batch. So what must be repeatable is written batch by batch.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a model on; its turns end where those of its tokenizer do."""
        self.model, self.tokenizer = model, tokenizer
        ends = (end_of_turn(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
        self._ends = {end for end in ends if isinstance(end, int)}
        self._holding: dict[tuple[str, ...], set[int]] = {}

    def count_tokens(self, prompt: str | Messages) -> int:
        """Tokens of a plain text, or of a conversation with its template."""
        return len(self._ids(prompt))

    def plan(self, conversations: Sequence[str | Messages], max_tokens: int) -> list[list[int]]:
        """Positions that are written together, batch by batch."""
        return batches([self.count_tokens(one) for one in conversations], max_tokens)

    def batch(
        self, conversations: Sequence[str | Messages], sampling: Sampling, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Reply]]:
        """Position and reply, in the order of finishing.

        Args:
            conversations: or plain texts to be written on.
            sampling: a stop text ends a reply at once where one token holds all of it, else when all is written.
            seeds: one each; made from `sampling.seed` if not given.
        """
        own = seeds if seeds is not None else [derive_seed(sampling.seed, place) for place in range(len(conversations))]
        prompts = [self._ids(conversation) for conversation in conversations]
        for places in batches(list(map(len, prompts)), sampling.max_tokens):
            started = time.perf_counter()
            texts = write_together(
                self.model,
                [prompts[place] for place in places],
                sampling,
                [own[place] for place in places],
                self._ends,
                self._stopping(sampling.stop),
            )
            for row, text in texts:
                seconds = time.perf_counter() - started
                yield places[row], self._reply(text, len(prompts[places[row]]), seconds, sampling.stop)

    def _ids(self, prompt: str | Messages) -> list[int]:
        return text_ids(self.tokenizer, prompt) if isinstance(prompt, str) else conversation_ids(self.tokenizer, prompt)

    def _stopping(self, stop: tuple[str, ...]) -> set[int]:
        """Ids of tokens that hold a stop text."""
        if not stop:
            return set()
        if stop not in self._holding:
            texts = self.tokenizer.batch_decode([[token] for token in range(len(self.tokenizer))])
            self._holding[stop] = {token for token, text in enumerate(texts) if any(end in text for end in stop)}
        return self._holding[stop]

    def _reply(self, written: Written, prompt_tokens: int, seconds: float, stop: tuple[str, ...]) -> Reply:
        text = str(self.tokenizer.decode(written.ids, skip_special_tokens=True))
        if not written.ended:
            text = text.removesuffix(REPLACEMENT)  # a character whose last bytes were still to come
        cut = min([place for end in stop if (place := text.find(end)) >= 0], default=len(text))
        return Reply(
            text=text[:cut],
            finish="stop" if written.ended or cut < len(text) else "length",
            prompt_tokens=prompt_tokens,
            tokens=len(written.ids) + written.ended,
            first_token_s=seconds,
            seconds=seconds,
            arrivals=(seconds,),
        )
