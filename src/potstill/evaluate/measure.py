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

from potstill.answers import Answer, answers_of
from potstill.evaluate.code import program_limits
from potstill.evaluate.contest import Contest, find_contest
from potstill.evaluate.exam import Exam, Sheet, programs_only, set_exam, sit
from potstill.evaluate.failures import find_failures
from potstill.evaluate.fidelity import add_fidelity, checkpoint_fidelity, gguf_fidelity, spread_over, teacher_fidelity
from potstill.evaluate.items import collect_items
from potstill.evaluate.marking import mark, run_programs
from potstill.evaluate.naturalness import add_naturalness, ratings_file, read_ratings
from potstill.evaluate.sandbox import confinement
from potstill.evaluate.scorecard import STUDENT, TEACHER, Scorecard, unmeasured
from potstill.evaluate.speed import add_speed, choose_questions, measure_speed, read_result
from potstill.fidelity import Fidelity
from potstill.run import Run, read_json, write_json
from potstill.signals.store import SignalStore

if TYPE_CHECKING:
    from potstill.evaluate.fidelity import Stretches


def measure(run: Run, folder: Path) -> None:
    """Measure all that the recipe asks for, and write it down."""
    run = replace(run, recipe=run.recipe.model_copy(update={"evaluate": run.recipe.evaluate.sizes()}))
    section, seed = run.recipe.evaluate, run.recipe.seed
    answers = answers_of(run)
    held_out = [answer for answer in answers if answer.prompt.split == "held-out"]
    contest, card = find_contest(run), Scorecard()
    # Now, for a damaged file should not be told after minutes.
    ratings = read_ratings(ratings_file(run.folder, contest.models[STUDENT]))
    # Speed needs questions, no matter which; fidelity and samples need some that nobody trained on.
    timed = read_result(_part(folder / "speed.json", lambda: _speed(run, contest, held_out or answers)))
    add_speed(card, contest.models | (contest.variants if not section.few else {}), timed)
    found = _part(folder / "fidelity.json", lambda: _fidelity(run, contest))
    _add_fidelity(card, run, found)
    exam = set_exam(section, held_out)
    sheets = {name: sit(exam, gguf, run, folder, name, name == STUDENT) for name, gguf in contest.models.items()}
    programs = {
        name: sit(programs_only(exam), contest.variants[name], run, folder, name, False) for name in contest.adapted
    }
    graded = _part(folder / "code.json", lambda: _programs(run, exam, {**sheets, **programs}))
    mark(card, exam, sheets, graded, section.bootstrap, seed)
    add_naturalness(card, list(contest.models), ratings, section.bootstrap, seed)
    card.write(folder / "scorecard.json")
    write_json(folder / "items.json", collect_items(found, exam, sheets, graded))
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
    if not len(store):
        why = "nothing is held out"
        run.progress.say(f"fidelity: not measured, {why}")
        return {"why": why, "ids": [], "categories": [], "models": {}}
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
        "ids": [store.examples[index].id for index in chosen],
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
    """Results of all programs; none, and why, where this machine cannot confine them."""
    walls, section = confinement(), run.recipe.evaluate
    if not walls.available and not run.unsafe:
        why = f"this machine cannot confine programs: {walls.reason}"
        run.progress.say(f"code: not measured, {why}")
        return {"why": why, "models": {}}
    if not walls.available:
        run.progress.say("WARNING: --unsafe: programs that a model wrote now run with YOUR rights, without a sandbox.")
    with run.progress.task("programs run", len(sheets) * sum(map(len, exam.tasks.values())), "programs") as task:
        return {"why": "", "models": run_programs(exam, sheets, program_limits(section), task, unsafe=run.unsafe)}


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
