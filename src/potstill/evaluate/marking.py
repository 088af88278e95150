"""Marks the sheets: from what models wrote and preferred to rows of the scorecard.

In:  the exam, every model's sheet, what became of its programs.
Out: rows code.*, commonsense.*, stability.*, answers.* and stream.garbled of a scorecard.
Does not know: models beyond their names, files, recipes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from potstill.evaluate.code import CodeResult, add_code, grade_all
from potstill.evaluate.commonsense import CommonsenseResult, add_chance, add_commonsense, add_written, read_choice
from potstill.evaluate.exam import Exam, Sheet
from potstill.evaluate.importing import assembled
from potstill.evaluate.robustness import add_robustness
from potstill.evaluate.sandbox import Limits
from potstill.evaluate.scorecard import Measure, Scorecard, proportion, unmeasured
from potstill.evaluate.stability import add_stability
from potstill.progress import Task


def run_programs(
    exam: Exam, sheets: Mapping[str, Sheet], limits: Limits, task: Task, *, unsafe: bool = False
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """model → set → results, as JSON. Raises: Problem where programs cannot be confined and `unsafe` is false."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, sheet in sheets.items():
        task.describe(name)
        found[name] = {}
        for kind, tasks in exam.tasks.items():
            programs = [assembled(one, reply.text) for one, reply in zip(tasks, sheet.programs[kind], strict=True)]
            results = grade_all(tasks, programs, limits, task, unsafe=unsafe)
            found[name][kind] = [asdict(result) for result in results]
    return found


def mark(
    card: Scorecard, exam: Exam, sheets: Mapping[str, Sheet], graded: Mapping[str, Any], resamples: int, seed: int
) -> None:
    """Add every model's rows, and those of chance.

    Args:
        graded: "models": what `run_programs` found; "why": why nothing was run, or empty.
    """
    for name in {**sheets, **graded["models"]}:  # some have written programs and nothing else
        _mark_programs(card, name, exam, graded)
    for name, sheet in sheets.items():
        _mark_choices(card, name, exam, sheet)
        if exam.stability:
            add_stability(card, name, sheet.stability, resamples, seed)
            questions = [question.question for question in exam.stability]
            add_robustness(card, name, list(zip(questions, sheet.stability, strict=True)))
            card.add("stream.garbled", name, _garbled(sheet))
    for kind, listed in exam.questions.items():
        add_chance(card, f"commonsense.error{_suffix(kind)}", listed)
    add_chance(card, "commonsense.error_written", exam.written)


def _suffix(kind: str) -> str:
    return f".{kind}" if kind else ""


def _mark_programs(card: Scorecard, name: str, exam: Exam, graded: Mapping[str, Any]) -> None:
    for kind, tasks in exam.tasks.items():
        if tasks and graded["why"]:
            for metric in ("runs", "passes"):
                card.add(f"code.{metric}{_suffix(kind)}", name, unmeasured("share", graded["why"]))
        elif tasks:
            add_code(card, name, [CodeResult(**result) for result in graded["models"][name][kind]], _suffix(kind))


def _mark_choices(card: Scorecard, name: str, exam: Exam, sheet: Sheet) -> None:
    for kind, questions in exam.questions.items():
        pairs = zip(questions, sheet.likelihoods[kind], strict=True)
        results = [CommonsenseResult.of(question, likelihoods) for question, likelihoods in pairs]
        if results:
            add_commonsense(card, name, results, _suffix(kind))
    if exam.written:
        written = zip(sheet.letters, exam.written, strict=True)
        add_written(
            card, name, [read_choice(reply.text, question, reply.ended) for reply, question in written], exam.written
        )


def _garbled(sheet: Sheet) -> Measure:
    """Share of answers with a broken character; an interval as if each question had been asked once."""
    shares = [sum("\ufffd" in reply.text for reply in group) / len(group) for group in sheet.stability]
    return proportion(sum(shares), len(shares))
