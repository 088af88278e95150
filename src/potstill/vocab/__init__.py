"""Stage `vocab`: the student's vocabulary, a merge-closed subset of the teacher's, or its base's own (`foreign`).

In:  `answers/` (training text alone chooses, held-out text measures), text files of the recipe, the teacher.
Out: `vocab/`: a tokenizer that AutoTokenizer loads, `vocab_map.safetensors`, `report.json`.
Does not know: the student's shape, signals, training.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.answers import Answer, answers_of
from potstill.answers.tokenize import tokenize
from potstill.models.conversation import answer_ids, question_ids, text_ids
from potstill.models.teacher import Teacher, find_teacher, load_model, load_tokenizer
from potstill.run import Run, read_json, write_json, write_text
from potstill.texts import passages
from potstill.vocab.foreign import bind_vocabulary, foreign_base
from potstill.vocab.map import MAP, VocabMap
from potstill.vocab.subset import choose_tokens, subset_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from potstill.models.examples import Example

__all__ = ["VocabMap", "build_vocabulary"]

PASSAGE_CHARACTERS = 4000
KEPT_SETTINGS = (
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
    "chat_template",
    "model_max_length",
    "add_bos_token",
)


def build_vocabulary(run: Run, folder: Path) -> None:
    """Choose the kept tokens, write the student's tokenizer, say what it costs."""
    teacher = find_teacher(run.recipe.teacher.model, run.home, run.progress)
    tokenizer = load_tokenizer(teacher.checkpoint)
    answers = answers_of(run)
    if (base := foreign_base(run, teacher.checkpoint)) is not None:
        bind_vocabulary(run, folder, teacher, base, _load_teacher(run, teacher), answers)
        return
    training = [answer for answer in answers if answer.prompt.split == "train"]
    counts = count_tokens(tokenizer, training, passages(run.recipe.vocab.texts, PASSAGE_CHARACTERS))
    model = _load_teacher(run, teacher)
    scores = _with_expectations(run, model, tokenize(tokenizer, training, run.recipe.signals.context), counts)
    source = read_json(teacher.checkpoint / "tokenizer.json")
    vocabulary = VocabMap.from_kept(choose_tokens(source, scores, run.recipe.vocab.size))
    tokenizer_json = json.dumps(subset_tokenizer(source, vocabulary.teacher_ids.tolist()), ensure_ascii=False)
    _write_tokenizer(teacher.checkpoint, folder, tokenizer_json)
    vocabulary.save(folder / MAP)
    held_out = [answer for answer in answers if answer.prompt.split == "held-out"] or training
    report = _measure(run, model, tokenizer, load_tokenizer(folder), vocabulary, held_out)
    write_json(folder / "report.json", report | {"used_by_training_text": len(counts)})
    run.progress.say(
        f"vocabulary: {vocabulary.size:,} of {len(tokenizer):,} tokens kept; held-out text becomes "
        f"{100 * (report['lengthening'] - 1):.2f} % longer; the teacher gives "
        f"{100 * report['kept_probability']:.2f} % of its probability to kept tokens"
    )


def count_tokens(tokenizer: PreTrainedTokenizerBase, answers: Iterable[Answer], texts: Iterable[str]) -> Counter[int]:
    """Teacher id → uses, over templated questions, answers and plain texts."""
    counts: Counter[int] = Counter()
    for answer in answers:
        counts.update(question_ids(tokenizer, answer.prompt.text))
        counts.update(answer_ids(tokenizer, answer.text, ended=answer.finish != "length"))
    for text in texts:
        counts.update(text_ids(tokenizer, text))
    return counts


def _load_teacher(run: Run, teacher: Teacher) -> PreTrainedModel:
    import torch

    from potstill.machine import fastest_dtype

    return load_model(teacher.checkpoint, getattr(torch, fastest_dtype()))


def _with_expectations(
    run: Run, model: PreTrainedModel, examples: Sequence[Example], counts: Mapping[int, int]
) -> dict[int, float]:
    """Uses in the text, plus what the teacher would have liked to write."""
    from potstill.models.examples import evenly
    from potstill.vocab.teacher_view import expected_uses

    chosen = evenly(examples, run.recipe.vocab.expectation_tokens) if run.recipe.vocab.expectation_tokens else []
    with run.progress.task("tokens the teacher likes", sum(len(e.ids) for e in chosen), "tokens") as task:
        expected = expected_uses(model, chosen, task)
    return {token: counts.get(token, 0) + float(uses) for token, uses in enumerate(expected)}


def _write_tokenizer(source: Path, folder: Path, tokenizer_json: str) -> None:
    settings = read_json(source / "tokenizer_config.json")
    kept = {name: settings[name] for name in KEPT_SETTINGS if name in settings}
    # The family's own class would rebuild the tokenizer with its normaliser; this one takes tokenizer.json as it is.
    write_json(folder / "tokenizer_config.json", kept | {"tokenizer_class": "PreTrainedTokenizerFast"})
    write_text(folder / "tokenizer.json", tokenizer_json)
    if (source / "chat_template.jinja").exists():
        shutil.copyfile(source / "chat_template.jinja", folder / "chat_template.jinja")


def _measure(
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    student: PreTrainedTokenizerBase,
    vocabulary: VocabMap,
    answers: Sequence[Answer],
) -> dict[str, float]:
    """What the smaller vocabulary costs on text that had no say in it."""
    from potstill.models.examples import evenly
    from potstill.vocab.teacher_view import kept_probability

    before = sum(len(text_ids(tokenizer, answer.text)) for answer in answers)
    after = sum(len(text_ids(student, answer.text)) for answer in answers)
    examples = evenly(tokenize(student, answers, run.recipe.signals.context), run.recipe.vocab.coverage_tokens)
    with run.progress.task("probability kept", sum(len(e.ids) for e in examples), "tokens") as task:
        kept = kept_probability(model, examples, vocabulary, task)
    return {
        "size": vocabulary.size,
        "lengthening": after / max(before, 1),
        "measured_tokens": before,
        "kept_probability": kept,
    }
