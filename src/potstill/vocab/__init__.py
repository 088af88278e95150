"""Stage `vocab`: the student's vocabulary, a merge-closed subset of the teacher's.

In:  `answers/` (training text alone chooses, held-out text measures), text files of the recipe, the teacher.
Out: `vocab/`: a tokenizer that AutoTokenizer loads, `vocab_map.safetensors`, `report.json`.
Does not know: the student's shape, signals, training.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.answers import Answer, read_answers
from potstill.models.conversation import answer_ids, question_ids, text_ids
from potstill.models.teacher import Teacher, find_teacher, load_tokenizer
from potstill.run import Run, read_json, write_json, write_text
from potstill.texts import passages
from potstill.vocab.map import VocabMap
from potstill.vocab.subset import choose_tokens, subset_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    answers = read_answers(run.stage("answers") / "answers.jsonl")
    training = [answer for answer in answers if answer.prompt.split == "train"]
    counts = count_tokens(tokenizer, training, passages(run.recipe.vocab.texts, PASSAGE_CHARACTERS))
    source = read_json(teacher.checkpoint / "tokenizer.json")
    kept = choose_tokens(source, counts, run.recipe.vocab.size)
    _write_tokenizer(teacher.checkpoint, folder, json.dumps(subset_tokenizer(source, kept), ensure_ascii=False))
    vocabulary = VocabMap.from_kept(kept)
    vocabulary.save(folder / "vocab_map.safetensors")
    report = _measure(run, teacher, tokenizer, folder, vocabulary, answers)
    report["used_by_training_text"] = len(counts)
    write_json(folder / "report.json", report)
    covered = report["kept_probability"]
    run.progress.say(
        f"vocabulary: {vocabulary.size:,} of {len(tokenizer):,} tokens kept; held-out text becomes "
        f"{100 * (report['lengthening'] - 1):.2f} % longer"
        + (f"; the teacher gives {100 * covered:.2f} % of its probability to kept tokens" if covered else "")
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
    teacher: Teacher,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    vocabulary: VocabMap,
    answers: Sequence[Answer],
) -> dict[str, float]:
    student = load_tokenizer(folder)
    measured = [answer for answer in answers if answer.prompt.split == "held-out"] or list(answers)
    before = sum(len(text_ids(tokenizer, answer.text)) for answer in measured)
    after = sum(len(text_ids(student, answer.text)) for answer in measured)
    report = {"size": vocabulary.size, "lengthening": after / max(before, 1), "measured_tokens": before}
    report["kept_probability"] = 0.0
    if run.recipe.vocab.coverage_tokens:
        from potstill.vocab.coverage import kept_probability

        report["kept_probability"] = kept_probability(
            teacher, student, vocabulary, measured, run.recipe.vocab.coverage_tokens
        )
    return report
