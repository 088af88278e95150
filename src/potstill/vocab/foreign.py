"""A student that keeps a tokenizer of its own: copied unchanged, and its tokens bound to the teacher's.

In:  `answers/`, text files of the recipe, the teacher, the base whose tokenizer the student keeps.
Out: `vocab/`: that tokenizer, `binding.jsonl`, `report.json`.
Does not know: the student's shape, signals, training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from potstill.answers import Answer
from potstill.models.architecture import read_config
from potstill.models.base import find_base, same_tokens
from potstill.models.checkpoint import copy_tokenizer
from potstill.models.teacher import Teacher, load_tokenizer
from potstill.problem import Problem
from potstill.recipe import BindingSection
from potstill.run import Run, write_json
from potstill.texts import passages
from potstill.vocab.binding import (
    EXACT,
    FILE,
    FIRST,
    NEIGHBOUR,
    UNKNOWN,
    Binding,
    bind_exactly,
    first_tokens,
    mutual_neighbours,
)
from potstill.vocab.pairs import Speaker, pair
from potstill.vocab.vectors import sentences, train_vectors, word

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from potstill.models.examples import Example

PASSAGE_CHARACTERS = 2000


def foreign_base(run: Run, teacher: Path) -> Path | None:
    """The base's folder where its tokenizer is another than the teacher's; None where the teacher's will do."""
    if run.recipe.prune.base is None:
        return None
    base = find_base(run.recipe.prune.base, run.home, run.progress)
    return None if same_tokens(base, teacher) else base


def bind_vocabulary(
    run: Run, folder: Path, teacher: Teacher, base: Path, model: PreTrainedModel, answers: Sequence[Answer]
) -> None:
    """Copy the base's tokenizer, bind the teacher's tokens to its tokens, say what that covers."""
    copy_tokenizer(base, folder)
    tokenizer = load_tokenizer(folder)
    if not tokenizer.chat_template:
        raise Problem(f"{base} has no chat template", "Choose the instruct version of that model, or add a template.")
    student = Speaker.of(tokenizer, read_config(base).vocab_size)
    master = Speaker.of(load_tokenizer(teacher.checkpoint), model.config.vocab_size)
    training = [answer for answer in answers if answer.prompt.split == "train"]
    held_out = [answer for answer in answers if answer.prompt.split == "held-out"] or training
    texts = [text for answer in training for text in (answer.prompt.text, answer.text)]
    texts += passages(run.recipe.vocab.texts, PASSAGE_CHARACTERS)
    binding = bind(student, master, texts, run.recipe.vocab.binding, run.recipe.seed)
    binding.save(folder / FILE, master.pieces, student.pieces)
    report = _measure(run, model, binding, pair(student, master, held_out, run.recipe.signals.context))
    write_json(folder / "report.json", report)
    run.progress.say(
        f"vocabulary: {report['bound_tokens']:,} of the teacher's {len(master.pieces):,} tokens are bound to the "
        f"base's own {len(student.pieces):,}; they hold {100 * report['kept_probability']:.1f} % of its probability"
    )


def bind(student: Speaker, teacher: Speaker, texts: Sequence[str], asked: BindingSection, seed: int) -> Binding:
    """Exact bytes first, then neighbours, then what the recipe says of the others."""
    binding = bind_exactly(teacher.pieces, student.pieces)
    if asked.neighbours and len(binding.unbound()):
        binding = binding.also(*_neighbours(binding, student, teacher, texts, asked, seed))
    if asked.unbound == "first":
        binding = binding.also(first_tokens(teacher.pieces, student.pieces), FIRST)
    if asked.unbound == "unk":
        unknown = student.tokenizer.unk_token_id
        if unknown is None:
            raise Problem(
                'vocab.binding.unbound = "unk", but the base\'s tokenizer has no unknown token', 'Set it to "rest".'
            )
        binding = binding.also(dict.fromkeys(binding.unbound().tolist(), int(unknown)), UNKNOWN)
    return binding


def _neighbours(
    binding: Binding, student: Speaker, teacher: Speaker, texts: Sequence[str], asked: BindingSection, seed: int
) -> tuple[dict[int, int], str, dict[int, float]]:
    """Only tokens that the texts hold have a place in the space that was learned from them."""
    cuts = [(teacher.cut(text), student.cut(text)) for text in texts]
    vectors = train_vectors(list(sentences(cuts, seed)), asked.dimensions, asked.epochs, seed)
    ours = [index for index in binding.unbound().tolist() if word(teacher.pieces[index]) in vectors]
    theirs = [index for index, piece in enumerate(student.pieces) if word(piece) in vectors]
    sides = tuple(
        np.array([vectors[str(word(pieces[index]))] for index in ids], dtype=np.float32)
        for pieces, ids in ((teacher.pieces, ours), (student.pieces, theirs))
    )
    pairs, cosines = mutual_neighbours(np.array(ours), np.array(theirs), (sides[0], sides[1]), asked.threshold)
    return pairs, NEIGHBOUR, cosines


def _measure(
    run: Run, model: PreTrainedModel, binding: Binding, pairs: Sequence[tuple[Example, Example]]
) -> dict[str, float]:
    """Coverage by token, by use in held-out answers, and by the teacher's probability there; all, and of each kind."""
    from potstill.models.examples import evenly
    from potstill.vocab.teacher_view import probability_of

    if not pairs:
        raise Problem("no answer fits into signals.context", "Raise signals.context or shorten the prompts.")
    kinds = {how: binding.bound(how) for how in (EXACT, NEIGHBOUR, FIRST, UNKNOWN)}
    chosen = evenly([read for _, read in pairs], run.recipe.vocab.coverage_tokens)
    with run.progress.task("probability kept", sum(len(one.ids) for one in chosen), "tokens") as task:
        shares = probability_of(model, chosen, kinds, task)
    uses = np.concatenate([read.ids[read.start :] for _, read in pairs])
    ours, rows = sum(len(kept.ids) - kept.start for kept, _ in pairs), sum(kept.rows for kept, _ in pairs)
    return {
        "size": binding.students,
        "bound_tokens": sum(map(len, kinds.values())),
        "bound_uses": float(np.isin(uses, np.flatnonzero(binding.student_of >= 0)).mean()),
        "kept_probability": sum(shares.values()),
        **_by_kind("tokens", {how: float(len(ids)) for how, ids in kinds.items()}),
        **_by_kind("probability", shares),
        "lengthening": ours / len(uses),
        "measured_tokens": len(uses),
        "shared_places": rows / ours,
    }


def _by_kind(what: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{how}_{what}": value for how, value in values.items() if value}


def speakers(run: Run, teacher: Path, teacher_size: int) -> tuple[Speaker, Speaker]:
    """The student's and the teacher's tokenizer of a run whose student keeps its own."""
    binding = Binding.load(run.stage("vocab") / FILE)
    return (
        Speaker.of(load_tokenizer(run.stage("vocab")), binding.students),
        Speaker.of(load_tokenizer(teacher), teacher_size),
    )
