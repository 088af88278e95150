"""One evaluation from beginning to end.

In:  a run, the folder of the stage.
Out: the files of the stage (see the package).
Does not know: how any single thing is measured or scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.answers import Answer, read_answers
from potstill.evaluate.code import CodeResult, CodeTask, add_code, grade_all
from potstill.evaluate.commonsense import CommonsenseResult, add_chance, add_commonsense, add_written, read_choice
from potstill.evaluate.contest import STUDENT, TEACHER, Contest, find_contest
from potstill.evaluate.exam import Exam, Sheet, set_exam, sit
from potstill.evaluate.failures import find_failures
from potstill.evaluate.fidelity import add_fidelity, checkpoint_fidelity, gguf_fidelity, spread_over, teacher_fidelity
from potstill.evaluate.gates import as_rows, judge
from potstill.evaluate.importing import assembled
from potstill.evaluate.naturalness import add_naturalness, read_ratings
from potstill.evaluate.robustness import add_robustness
from potstill.evaluate.sandbox import Limits, confinement
from potstill.evaluate.scorecard import Scorecard, proportion, unmeasured
from potstill.evaluate.speed import add_speed, choose_questions, measure_speed, read_result
from potstill.evaluate.stability import add_stability
from potstill.fidelity import Fidelity
from potstill.run import Run, read_json, write_json
from potstill.signals.store import SignalStore

if TYPE_CHECKING:
    from potstill.evaluate.fidelity import Stretches


def measure(run: Run, folder: Path) -> None:
    """Measure all that the recipe asks for, and write it down."""
    run = replace(run, recipe=run.recipe.model_copy(update={"evaluate": run.recipe.evaluate.sizes()}))
    section, seed = run.recipe.evaluate, run.recipe.seed
    answers = read_answers(run.stage("answers") / "answers.jsonl")
    held_out = [answer for answer in answers if answer.prompt.split == "held-out"]
    contest, card = find_contest(run), Scorecard()
    # Speed needs questions, no matter which; fidelity and samples need some that nobody trained on.
    timed = read_result(_part(folder / "speed.json", lambda: _speed(run, contest, held_out or answers)))
    add_speed(card, contest.models | (contest.variants if not section.few else {}), timed, section.bootstrap, seed)
    _add_fidelity(card, run, _part(folder / "fidelity.json", lambda: _fidelity(run, contest)))
    exam = set_exam(section, held_out)
    sheets = {name: sit(exam, gguf, run, name, name == STUDENT) for name, gguf in contest.models.items()}
    graded = _part(folder / "code.json", lambda: _programs(run, exam, sheets))
    _add_exam(card, run, exam, sheets, graded)
    add_naturalness(card, list(contest.models), read_ratings(run.folder / "ratings.sqlite"), section.bootstrap, seed)
    card.write(folder / "scorecard.json")
    write_json(folder / "gates.json", as_rows(judge(run.recipe.gates, card.measures)))
    write_json(folder / "samples.json", _samples(exam, sheets[STUDENT]))
    write_json(folder / "stability.json", {name: _stability(exam, sheet) for name, sheet in sheets.items()})
    write_json(folder / "failures.json", find_failures(exam, sheets[TEACHER], sheets[STUDENT], graded))


def _part(path: Path, work: Callable[[], Any]) -> Any:
    """What an earlier, killed evaluation has measured already, or a measurement that is kept."""
    if not path.exists():
        write_json(path, work())
    return read_json(path)


def _speed(run: Run, contest: Contest, answers: Sequence[Answer]) -> dict[str, Any]:
    section = run.recipe.evaluate
    questions = choose_questions([answer.prompt.text for answer in answers], section.prompts)
    variants = {} if section.few else contest.variants
    return measure_speed(contest.models, variants, questions, section, run.progress).to_json()


def _fidelity(run: Run, contest: Contest) -> dict[str, Any]:
    store = SignalStore(run.stage("signals"), "held-out")
    if not len(store) or store.form.kind != "hidden":
        why = "topk signals do not hold all logits" if len(store) else "nothing is held out"
        run.progress.say(f"fidelity: not measured, {why}")
        return {"why": why, "categories": [], "models": {}}
    chosen = spread_over(store, run.recipe.evaluate.fidelity_answers)
    checkpoints = {
        "cut": run.stage("prune") / "cut",
        "healed": run.stage("prune") / "student",
        "trained": run.stage("distill") / "student",
    }
    files = {STUDENT: contest.models[STUDENT], **({} if run.recipe.evaluate.few else contest.variants)}
    found: dict[str, list[Stretches]] = {}
    with run.progress.task("fidelity", (1 + len(checkpoints) + len(files)) * len(chosen), "answers") as task:
        found[TEACHER] = teacher_fidelity(store, chosen, task)
        for name, checkpoint in checkpoints.items():
            task.describe(name)
            found[name] = checkpoint_fidelity(store, chosen, checkpoint, task)
        for name, gguf in files.items():
            task.describe(name)
            found[name] = gguf_fidelity(store, chosen, gguf, task)
    return {
        "why": "",
        "categories": [store.examples[index].category for index in chosen],
        "models": {name: [[asdict(part) for part in answer] for answer in answers] for name, answers in found.items()},
    }


def _add_fidelity(card: Scorecard, run: Run, found: dict[str, Any]) -> None:
    section = run.recipe.evaluate
    for name, answers in found["models"].items():
        stretches = [[Fidelity(**part) for part in answer] for answer in answers]
        add_fidelity(card, name, stretches, found["categories"], section.bootstrap, run.recipe.seed)
    if found["why"]:
        for metric, unit in (("kl", "nats"), ("top1", "share"), ("top5", "share"), ("perplexity", "perplexity")):
            card.add(f"fidelity.{metric}", STUDENT, unmeasured(unit, found["why"]))


def _programs(run: Run, exam: Exam, sheets: dict[str, Sheet]) -> dict[str, Any]:
    """model → set → results; nothing where this machine cannot confine a program."""
    walls, section = confinement(), run.recipe.evaluate
    if not walls.available and not run.unsafe:
        run.progress.say(f"code: not measured, this machine cannot confine programs: {walls.reason}")
        return {"why": f"this machine cannot confine programs: {walls.reason}", "models": {}}
    if not walls.available:
        run.progress.say(
            "WARNING: --unsafe: programs that a model wrote now run with YOUR rights, without any sandbox."
        )
    limits = Limits(section.code_seconds, 3 * section.code_seconds, section.code_memory_mb, 16, 16, 256)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with run.progress.task("programs run", len(sheets) * sum(map(len, exam.tasks.values())), "programs") as task:
        for name, sheet in sheets.items():
            task.describe(name)
            found[name] = {
                kind: [
                    asdict(result)
                    for result in grade_all(tasks, _assembled(tasks, sheet, kind), limits, task, unsafe=run.unsafe)
                ]
                for kind, tasks in exam.tasks.items()
            }
    return {"why": "", "models": found}


def _assembled(tasks: Sequence[CodeTask], sheet: Sheet, kind: str) -> list[str]:
    return [assembled(task, reply.text) for task, reply in zip(tasks, sheet.programs[kind], strict=True)]


def _add_exam(card: Scorecard, run: Run, exam: Exam, sheets: dict[str, Sheet], graded: dict[str, Any]) -> None:
    resamples, seed = run.recipe.evaluate.bootstrap, run.recipe.seed
    for name, sheet in sheets.items():
        _add_code(card, name, exam, graded)
        _add_choices(card, name, exam, sheet)
        if exam.stability:
            add_stability(card, name, sheet.stability, resamples, seed)
            questions = [question.question for question in exam.stability]
            add_robustness(card, name, list(zip(questions, sheet.stability, strict=True)))
            card.add("stream.garbled", name, _garbled(sheet))
    for kind, listed in exam.questions.items():
        add_chance(card, listed, _suffix(kind))


def _suffix(kind: str) -> str:
    return f".{kind}" if kind else ""


def _add_code(card: Scorecard, name: str, exam: Exam, graded: dict[str, Any]) -> None:
    for kind, tasks in exam.tasks.items():
        if tasks and graded["why"]:
            for metric in ("runs", "passes"):
                card.add(f"code.{metric}{_suffix(kind)}", name, unmeasured("share", graded["why"]))
        elif tasks:
            add_code(card, name, [CodeResult(**result) for result in graded["models"][name][kind]], _suffix(kind))


def _add_choices(card: Scorecard, name: str, exam: Exam, sheet: Sheet) -> None:
    for kind, questions in exam.questions.items():
        results = [
            CommonsenseResult.of(question, likelihoods)
            for question, likelihoods in zip(questions, sheet.likelihoods[kind], strict=True)
        ]
        if results:
            add_commonsense(card, name, results, _suffix(kind))
    if exam.written:
        chosen = [
            read_choice(reply.text, question) for reply, question in zip(sheet.letters, exam.written, strict=True)
        ]
        add_written(card, name, chosen, exam.written)


def _garbled(sheet: Sheet) -> Any:
    """Share of the stability answers with a broken character; an interval as if each question were asked once."""
    shares = [sum("\ufffd" in reply.text for reply in group) / len(group) for group in sheet.stability]
    return proportion(sum(shares), len(shares))


def _samples(exam: Exam, sheet: Sheet) -> list[dict[str, str]]:
    return [
        {
            "id": answer.prompt.id,
            "category": answer.prompt.category,
            "prompt": answer.prompt.text,
            "teacher": answer.text,
            "student": reply.text,
        }
        for answer, reply in zip(exam.samples, sheet.samples, strict=True)
    ]


def _stability(exam: Exam, sheet: Sheet) -> list[dict[str, Any]]:
    return [
        {"question": question.question, "answers": [asdict(reply) for reply in replies]}
        for question, replies in zip(exam.stability, sheet.stability, strict=True)
    ]
