"""The exam: everything that every model is asked, and the sheets that come back.

In:  the recipe's sizes, held-out answers, evaluation sets.
Out: `Exam`, `Sheet`s: replies and likelihoods, in the order of what was asked.
Does not know: what is right, how it is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from potstill.answers import Answer
from potstill.answers.settings import sampling_for
from potstill.evaluate.code import CodeTask, code_tasks
from potstill.evaluate.commonsense import Question, commonsense_questions, likelihood_prompt, spread, written_prompt
from potstill.evaluate.importing import read_code_tasks, read_questions
from potstill.evaluate.replies import Ask, Written, measure_likelihoods, open_notebook, write_replies
from potstill.evaluate.stability import StabilityQuestion, stability_questions
from potstill.models.engine import Sampling, derive_seed
from potstill.recipe import AnswersSection, EvaluateSection
from potstill.run import Run

OURS = ""
"""Name of our own sets; those of others are named by their file."""
LETTER_TOKENS = 16
"""Enough for a letter and a few words around it."""
CODE_FORMATS = ("humaneval", "mbpp")
BEHIND_CODE = "```\n\n"
"""How a model closes its block of code to explain it: nobody reads on, so it need not write on."""


@dataclass(frozen=True)
class Exam:
    """What is asked.

    Args:
        tasks: set → programs to write. questions: set → choices to weigh. written: choices to name.
        stability: asked several times each. samples: held-out answers whose question is asked again.
    """

    tasks: dict[str, list[CodeTask]]
    questions: dict[str, list[Question]]
    written: list[Question]
    stability: list[StabilityQuestion]
    samples: list[Answer]


@dataclass(frozen=True)
class Sheet:
    """One model's replies.

    Args:
        programs: set → a reply a task. likelihoods: set → nats a choice, a list a question. letters: a reply a
        question. stability: the replies to each question. samples: a reply each.
    """

    programs: dict[str, list[Written]]
    likelihoods: dict[str, list[list[float]]]
    letters: list[Written]
    stability: list[list[Written]]
    samples: list[Written]


def set_exam(section: EvaluateSection, held_out: Sequence[Answer]) -> Exam:
    """Choose what is asked. Raises: Problem where a file of the recipe cannot be read."""
    programs = [file for file in section.files if file.format in CODE_FORMATS]
    choices = [file for file in section.files if file.format not in CODE_FORMATS]
    step = max(1, len(held_out) // max(1, section.samples))
    return Exam(
        tasks={
            OURS: code_tasks()[: section.code_tasks],
            **{file.path.stem: read_code_tasks(file.path, file.format, file.limit) for file in programs},
        },
        questions={
            OURS: spread(commonsense_questions(), section.commonsense),
            **{file.path.stem: read_questions(file.path, file.format, file.limit) for file in choices},
        },
        written=spread(commonsense_questions(), section.commonsense_written),
        stability=stability_questions()[: section.stability_questions],
        samples=list(held_out[::step][: section.samples]),
    )


def programs_only(exam: Exam) -> Exam:
    """Its programming tasks alone: what is asked of a student with an adapter."""
    return Exam(exam.tasks, {}, [], [], [])


def sit(exam: Exam, gguf: Path, run: Run, folder: Path, title: str, with_samples: bool) -> Sheet:
    """Ask one model everything. Interrupted, the next sitting goes on behind the last reply.

    Args:
        folder: of the stage; fresh replies are kept there, and all where the home takes none.
        title: the model's name, for people.
        with_samples: whether the held-out questions are asked too.
    """
    section = run.recipe.evaluate
    notebook = open_notebook(gguf, run.home, folder / "replies", section.fresh)
    groups = asks_of(exam, section, run.recipe.answers, run.recipe.seed)
    if not with_samples:
        groups["samples"] = []
    asks = [ask for group in groups.values() for ask in group]
    items = {name: items_of(questions) for name, questions in exam.questions.items()}
    context = section.reply_context
    with run.progress.task(f"{title} answers", len(asks), "replies") as task:
        replies = iter(write_replies(gguf, asks, context, notebook, task, run.progress.say))
    with run.progress.task(f"{title} weighs choices", sum(map(len, items.values())), "questions") as task:
        likelihoods = {
            name: measure_likelihoods(gguf, listed, context, notebook, task) for name, listed in items.items()
        }
    written = {name: [next(replies) for _ in group] for name, group in groups.items()}
    stability, times = written["stability"], section.stability_samples
    return Sheet(
        programs={name: written[f"code {name}"] for name in exam.tasks},
        likelihoods=likelihoods,
        letters=written["letters"],
        stability=[stability[begin : begin + times] for begin in range(0, len(stability), times)],
        samples=written["samples"],
    )


def items_of(questions: Sequence[Question]) -> list[tuple[str, tuple[str, ...]]]:
    """What is asked, and the choices to weigh."""
    return [(likelihood_prompt(question), question.choices) for question in questions]


def asks_of(exam: Exam, section: EvaluateSection, answers: AnswersSection, seed: int) -> dict[str, list[Ask]]:
    """What is to be written, by group.

    Programs and letters greedily (no seed matters), and without a penalty on repetition: programs rightly repeat
    themselves.
    """
    program = Sampling.greedy(section.code_tokens, stop=(BEHIND_CODE,))
    letter = Sampling.greedy(LETTER_TOKENS)
    sample = Sampling.greedy(section.sample_tokens, answers.repeat_penalty)
    stability = [  # drawn as the teacher's answers are: what a person meets in a chat
        Ask(question.question, sampling_for(answers, derive_seed(seed, number), section.stability_tokens))
        for place, question in enumerate(exam.stability)
        for number in range(1000 * place, 1000 * place + section.stability_samples)
    ]
    return {
        **{f"code {name}": [Ask(task.prompt, program) for task in tasks] for name, tasks in exam.tasks.items()},
        "letters": [Ask(written_prompt(question), letter) for question in exam.written],
        "stability": stability,
        "samples": [Ask(answer.prompt.text, sample) for answer in exam.samples],
    }
