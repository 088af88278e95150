"""Where the student failed, to be read: numbers alone teach nobody what a model cannot do.

In:  the exam, the sheets of teacher and student, what became of their programs.
Out: rows of `failures.json`.
Does not know: rates, intervals.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from potstill.evaluate.commonsense import CommonsenseResult, Question, read_choice
from potstill.evaluate.exam import OURS, Exam, Sheet


def find_failures(exam: Exam, teacher: Sheet, student: Sheet, graded: dict[str, Any]) -> list[dict[str, Any]]:
    """Programs that do not pass, choices that are wrong, choices written wrong; each beside the teacher's."""
    return [*_programs(exam, graded), *_weighed(exam, teacher, student), *_letters(exam, teacher, student)]


def _row(kind: str, item: str, question: str, expected: str, **told: Any) -> dict[str, Any]:
    return {"kind": kind, "id": item, "question": question, "expected": expected, **told}


def _programs(exam: Exam, graded: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for kind, tasks in exam.tasks.items() if graded["models"] else ():
        both = (graded["models"][name][kind] for name in ("teacher", "student"))
        for task, taught, learnt in zip(tasks, *both, strict=True):
            if not learnt["passes"]:
                yield _row(
                    "code", task.id, task.prompt, task.solution, teacher=taught["reply"],
                    teacher_right=taught["passes"], student=learnt["reply"],
                    why=learnt["error"] if not learnt["runs"] else f"hidden checks: {learnt['error']}",
                )  # fmt: skip


def _weighed(exam: Exam, teacher: Sheet, student: Sheet) -> Iterator[dict[str, Any]]:
    sheets = (sheet.likelihoods[OURS] for sheet in (teacher, student))
    for question, *likelihoods in zip(exam.questions[OURS], *sheets, strict=True):
        taught, learnt = (CommonsenseResult.of(question, values).chosen for values in likelihoods)
        if learnt != question.answer:
            yield _choice_row(
                question, "commonsense", taught, learnt, _named(question, taught), _named(question, learnt)
            )


def _letters(exam: Exam, teacher: Sheet, student: Sheet) -> Iterator[dict[str, Any]]:
    for question, taught, learnt in zip(exam.written, teacher.letters, student.letters, strict=True):
        right, chosen = (read_choice(reply.text, question, reply.ended) for reply in (taught, learnt))
        if chosen != question.answer:
            yield _choice_row(question, "commonsense_written", right, chosen, taught.text, learnt.text)


def _choice_row(
    question: Question, kind: str, taught: int | None, learnt: int | None, teacher: str, student: str
) -> dict[str, Any]:
    choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCDEFGH", question.choices, strict=False))
    return _row(
        kind, question.id, f"{question.question}\n{choices}", question.choices[question.answer], teacher=teacher,
        teacher_right=taught == question.answer, student=student,
        why="names no choice" if learnt is None else f"chose {_named(question, learnt)}",
    )  # fmt: skip


def _named(question: Question, place: int | None) -> str:
    return question.choices[place] if place is not None else ""
