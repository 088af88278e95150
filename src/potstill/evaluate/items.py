"""What every measure was made of, item by item, so that two runs can be compared on the same questions.

In:  held-out answers' fidelity, the exam, every model's sheet, what became of its programs.
Out: `items.json`: metric → model → item → [part, of]; the sums of both over all items give the metric's value.
Does not know: intervals, other runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from potstill.evaluate.commonsense import CommonsenseResult, read_choice
from potstill.evaluate.exam import OURS, Exam, Sheet
from potstill.evaluate.replies import Written
from potstill.evaluate.robustness import faults
from potstill.evaluate.scorecard import Floats, perplexity, ratio
from potstill.evaluate.stability import rows_of
from potstill.models.embedder import OFFLINE, Embed, open_embedder

Parts = dict[str, list[float]]
"""Item → [part, of]."""
Items = dict[str, dict[str, Parts]]
"""Metric → model → items."""

FIDELITY = {"fidelity.kl": "kl", "fidelity.top1": "top1", "fidelity.top5": "top5", "fidelity.perplexity": "surprise"}


def statistic_of(metric: str) -> Callable[[Floats], Floats]:
    """What makes the metric's value of the sums [..., 2] of its items."""
    return perplexity if metric == "fidelity.perplexity" else ratio


def collect_items(
    found: Mapping[str, Any],
    exam: Exam,
    sheets: Mapping[str, Sheet],
    graded: Mapping[str, Any],
    embed: Embed | None = None,
) -> Items:
    """Items of every measure that is made of items; of our own sets, and of all models.

    Args:
        found: fidelity, "ids" and "models": a list of stretches an answer. graded: what became of all programs.
        embed: sentence embeddings; the offline encoder's where none are given.
    """
    items: Items = {}
    _fidelity(items, found)
    for name, results in graded["models"].items():
        _programs(items, name, results[OURS])
    for name, sheet in sheets.items():
        _choices(items, name, exam, sheet)
        if exam.stability:
            questions = {question.id: question.question for question in exam.stability}
            _stability(items, name, questions, sheet.stability, embed or open_embedder(OFFLINE).embed)
    return items


def _put(items: Items, metric: str, model: str, parts: Iterable[tuple[str, float, float]]) -> None:
    made = {item: [float(part), float(of)] for item, part, of in parts}
    if made:
        items.setdefault(metric, {})[model] = made


def _fidelity(items: Items, found: Mapping[str, Any]) -> None:
    for model, answers in found["models"].items():
        for metric, name in FIDELITY.items():
            sums = (
                (item, sum(part[name] for part in parts), sum(part["positions"] for part in parts))
                for item, parts in zip(found["ids"], answers, strict=True)
            )
            _put(items, metric, model, sums)


def _programs(items: Items, model: str, results: Sequence[Mapping[str, Any]]) -> None:
    for kind in ("runs", "passes"):
        _put(items, f"code.{kind}", model, ((result["id"], result[kind], 1) for result in results))


def _choices(items: Items, model: str, exam: Exam, sheet: Sheet) -> None:
    weighed = [
        CommonsenseResult.of(question, values)
        for question, values in zip(exam.questions[OURS], sheet.likelihoods[OURS], strict=True)
    ]
    _put(items, "commonsense.error", model, ((one.id, one.chosen != one.answer, 1) for one in weighed))
    pairs = zip(exam.written, sheet.letters, strict=True)
    written = [(question, read_choice(reply.text, question, reply.ended)) for question, reply in pairs]
    wrong = ((question.id, chosen != question.answer, 1) for question, chosen in written)
    _put(items, "commonsense.error_written", model, wrong)
    _put(items, "commonsense.unreadable", model, ((question.id, chosen is None, 1) for question, chosen in written))


def _stability(
    items: Items, model: str, questions: Mapping[str, str], groups: Sequence[Sequence[Written]], embed: Embed
) -> None:
    broken = [
        [float(sum(bool(faults(question, reply)) for reply in group)), float(len(group))]
        for question, group in zip(questions.values(), groups, strict=True)
    ]
    for metric, rows in {**rows_of(groups, embed), "answers.broken": broken}.items():
        _put(items, metric, model, ((item, part, of) for item, (part, of) in zip(questions, rows, strict=True)))
