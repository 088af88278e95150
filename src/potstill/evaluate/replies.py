"""What models write and prefer: every reply and every likelihood that the scorecard reads, each computed once.

In:  a GGUF, questions with their sampling settings; questions with choices.
Out: `Written` texts; log-likelihoods.
Does not know: how they are scored.

Both are the same whenever the same file is asked the same, so they are remembered by what was asked: an evaluation
that was killed goes on at the next reply, and a teacher is not asked again for every student. Those of the default
teacher to our own sets ship with potstill (`evaluate.fresh` writes them anew: the same words).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

from potstill.machine import usable_cores
from potstill.models.conversation import messages
from potstill.models.engine import Sampling
from potstill.models.gguf_adapter import parts_of
from potstill.models.identity import combined_hash, file_hash
from potstill.models.llama import LlamaReader
from potstill.models.team import Team, members_that_fit
from potstill.notebook import Notebook
from potstill.progress import Task
from potstill.run import digest

FORMAT = 1
"""Raise it when the same question would get another reply, as with another llama.cpp; then ship anew (`ship`)."""
SHIPPED = "shipped"
"""Folder of the package with replies, a file for each model, named by its SHA-256."""


@dataclass(frozen=True)
class Written:
    """One reply.

    Args:
        text: as it came. ended: the model ended it, not its limit. tokens: how many it took; 0 where the question
        alone fills the context.
    """

    text: str
    ended: bool
    tokens: int


@dataclass(frozen=True)
class Ask:
    """One question, and how the reply is drawn."""

    question: str
    sampling: Sampling


def open_notebook(gguf: Path, home: Path, folder: Path, fresh: bool) -> Notebook:
    """What is known of a file: from earlier evaluations, and what ships.

    Args:
        folder: where replies are kept that are not kept for all runs: `fresh` ones, and where `home` takes none.
    """
    parts = parts_of(gguf)
    hashes = {path.name: file_hash(path, home) for path in (parts.model, *parts.adapters)}
    sha256 = combined_hash(hashes) if parts.adapters else hashes[gguf.name]
    own = Path(f"{sha256}.jsonl")
    if fresh:
        return Notebook(folder / own)
    kept = home / "replies" / own
    known = [files("potstill.evaluate") / SHIPPED / own.name]
    if not _takes_files(kept.parent):
        known.append(kept)
        kept = folder / own
    return Notebook(kept, "\n".join(one.read_text(encoding="utf-8") for one in known if one.is_file()))


def _takes_files(folder: Path) -> bool:
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return os.access(folder, os.W_OK)


def reply_key(ask: Ask, context: int) -> str:
    """What a reply is remembered by."""
    return digest(["reply", FORMAT, ask.question, asdict(ask.sampling), context])


def likelihood_key(question: str, choices: Sequence[str], context: int) -> str:
    """What the likelihoods of a question's choices are remembered by."""
    return digest(["likelihood", FORMAT, question, list(choices), context])


def write_replies(
    gguf: Path, asks: Sequence[Ask], context: int, notebook: Notebook, task: Task, say: Callable[[str], None]
) -> list[Written]:
    """The model's reply to every question, in their order; an empty one where a question fills the context."""
    keys = [reply_key(ask, context) for ask in asks]
    todo = [place for place, key in enumerate(keys) if key not in notebook]
    task.resume(len(asks) - len(todo))
    if todo:
        with Team(gguf, context=context, members=members_that_fit(gguf, usable_cores())) as team:
            lengths = [len(ids) for ids in team.prompt_ids([messages(asks[place].question) for place in todo])]
            too_long = [place for place, length in zip(todo, lengths, strict=True) if length >= context]
            for place in too_long:
                notebook.put(keys[place], asdict(Written("", False, 0)))
                task.advance()
            if too_long:
                say(f"{gguf.name}: {len(too_long)} questions do not fit into {context} tokens and count as unanswered")
            # by hash: long and short replies well mixed, so that the time left is told rightly
            rest = sorted(set(todo) - set(too_long), key=lambda place: keys[place])
            requests = [(messages(asks[place].question), asks[place].sampling) for place in rest]
            for number, reply in team.write(requests):
                written = Written(reply.text, reply.finish == "stop", reply.tokens)
                notebook.put(keys[rest[number]], asdict(written))
                task.advance()
    return [Written(**notebook[key]) for key in keys]


def measure_likelihoods(
    gguf: Path, items: Sequence[tuple[str, Sequence[str]]], context: int, notebook: Notebook, task: Task
) -> list[list[float]]:
    """Log-likelihood, in nats, of each choice as the whole beginning of the answer to its question.

    Args:
        items: (question, choices).

    Returns: one list an item; NaN where the question fills the context.
    """
    keys = [likelihood_key(question, choices, context) for question, choices in items]
    todo = [place for place, key in enumerate(keys) if key not in notebook]
    task.resume(len(items) - len(todo))
    if todo:
        with Team(gguf, context=context, members=1) as team:
            shared = _opening(*team.prompt_ids([messages("一"), messages("A")]))
            stems = dict(zip(todo, team.prompt_ids([messages(items[place][0]) for place in todo]), strict=True))
        with LlamaReader(gguf, context=context, threads=usable_cores()) as reader:
            for place in todo:
                choices = [reader.tokenize(choice, special=False) for choice in items[place][1]]
                fits = len(stems[place]) + max(map(len, choices)) <= context
                values = reader.log_likelihoods(stems[place], choices, shared) if fits else []
                notebook.put(keys[place], values)
                task.advance()
    known = [notebook[key] for key in keys]
    return [values or [math.nan] * len(choices) for values, (_, choices) in zip(known, items, strict=True)]


def _opening(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens a chat template puts before any question: those that two unlike questions begin with."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), 0)
