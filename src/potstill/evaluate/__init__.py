"""Stage `evaluate`: the scorecard, measured on what ships.

In:  `export/`, `prune/`, `signals/` (held-out), `answers/` (held-out), the teacher's GGUF.
Out: `evaluate/scorecard.json`, `samples.json`, `code.json`; parts that survive a kill lie beside them.
Does not know: how the student was trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.answers import Answer, read_answers
from potstill.export import gguf_path
from potstill.fidelity import Fidelity
from potstill.run import Run, read_json, write_json

if TYPE_CHECKING:
    from potstill.progress import Task

__all__ = ["evaluate"]


def evaluate(run: Run, folder: Path) -> None:
    """Measure speed, fidelity and sample answers; each part is kept as soon as it is whole."""
    from potstill.evaluate.code import CodeResult, add_code
    from potstill.evaluate.fidelity import add_fidelity
    from potstill.evaluate.scorecard import Scorecard
    from potstill.evaluate.speed import add_speed
    from potstill.models.speed import SpeedSample
    from potstill.models.teacher import find_teacher

    section, seed = run.recipe.evaluate, run.recipe.seed
    teacher = find_teacher(run.recipe.teacher.model, run.home, run.progress)
    models = {"teacher": teacher.gguf, "student": gguf_path(run, run.recipe.export.ship)}
    answers = read_answers(run.stage("answers") / "answers.jsonl")
    held_out = [answer for answer in answers if answer.prompt.split == "held-out"]
    card = Scorecard()
    # Speed needs questions, no matter which; fidelity and samples need some that nobody trained on.
    speed = _part(folder / "speed.json", lambda: _speed(run, models, held_out or answers))
    samples = {name: [SpeedSample(**sample) for sample in listed] for name, listed in speed["samples"].items()}
    add_speed(card, models, samples, section.bootstrap, seed)
    for name, sums in _part(folder / "fidelity.json", lambda: _fidelity(run, models["student"])).items():
        add_fidelity(card, name, [Fidelity(**answer) for answer in sums], section.bootstrap, seed)
    if section.code_tasks:
        for name, results in _part(folder / "code.json", lambda: _code(run, models)).items():
            add_code(card, name, [CodeResult(**result) for result in results])
    card.write(folder / "scorecard.json")
    _part(folder / "samples.json", lambda: _samples(run, models["student"], held_out))


def _part(path: Path, measure: Callable[[], Any]) -> Any:
    """What an earlier, killed evaluation has measured already, or a measurement that is kept."""
    if not path.exists():
        write_json(path, measure())
    return read_json(path)


def _speed(run: Run, models: dict[str, Path], answers: list[Answer]) -> dict[str, Any]:
    from potstill.evaluate.speed import measure_speed

    # Questions of middle length: what a person types, neither a greeting nor a document.
    ordered = sorted((answer.prompt.text for answer in answers), key=len)
    middle = max(0, len(ordered) // 2 - run.recipe.evaluate.prompts // 2)
    questions = ordered[middle : middle + run.recipe.evaluate.prompts]
    threads, samples = measure_speed(models, questions, run.recipe.evaluate, run.progress)
    return {
        "threads": {name: asdict(setting) for name, setting in threads.items()},
        "samples": {name: [asdict(sample) for sample in listed] for name, listed in samples.items()},
    }


def _fidelity(run: Run, student: Path) -> dict[str, list[dict[str, float]]]:
    from potstill.evaluate.fidelity import checkpoint_fidelity, gguf_fidelity, teacher_fidelity
    from potstill.signals.store import SignalStore

    store = SignalStore(run.stage("signals"), "held-out")
    if not len(store) or store.form.kind != "hidden":
        why = "topk signals do not hold all logits" if len(store) else "nothing is held out"
        run.progress.say(f"fidelity: not measured, {why}")
        return {}
    measured: dict[str, Callable[[Task], list[Fidelity]]] = {
        "teacher": lambda task: teacher_fidelity(store, task),
        "cut": lambda task: checkpoint_fidelity(store, run.stage("prune") / "cut", task),
        "healed": lambda task: checkpoint_fidelity(store, run.stage("prune") / "student", task),
        "trained": lambda task: checkpoint_fidelity(store, run.stage("distill") / "student", task),
        "student": lambda task: gguf_fidelity(store, student, task),
    }
    with run.progress.task("fidelity", len(measured) * len(store), "answers") as task:
        found = {}
        for name, measure in measured.items():
            task.describe(name)
            found[name] = [asdict(answer) for answer in measure(task)]
    return found


def _code(run: Run, models: dict[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """Each model writes the held-out code tasks; their programs run in the sandbox, or not at all."""
    from potstill.evaluate.code import code_tasks, grade_all
    from potstill.evaluate.sandbox import Limits, confinement
    from potstill.machine import usable_cores
    from potstill.models.conversation import messages
    from potstill.models.engine import Engine, Sampling, default_threads

    walls, section, answers = confinement(), run.recipe.evaluate, run.recipe.answers
    if not walls.available:
        run.progress.say(f"code: not measured, this machine cannot confine programs: {walls.reason}")
        return {}
    tasks = code_tasks()[: section.code_tasks]
    # Greedy, and without a penalty on repetition: programs rightly repeat themselves.
    sampling = Sampling(0.0, 1.0, 0, run.recipe.seed, section.code_tokens, 1.0)
    limits = Limits(section.code_seconds, 3 * section.code_seconds, section.code_memory_mb, 16, 16, 256)
    conversations = [messages(task.prompt) for task in tasks]
    found: dict[str, list[dict[str, Any]]] = {}
    with run.progress.task("programs", 2 * len(tasks) * len(models), "tasks") as task:
        for name, gguf in models.items():
            replies = [""] * len(tasks)
            task.describe(f"{name} writes")
            threads = default_threads(usable_cores())
            with Engine(gguf, context=answers.context, slots=answers.slots, threads=threads) as engine:
                for index, reply in engine.batch(conversations, sampling):
                    replies[index] = reply.text
                    task.advance()
            task.describe(f"{name}'s programs run")
            found[name] = [asdict(result) for result in grade_all(tasks, replies, limits, task)]
    return found


def _samples(run: Run, student: Path, held_out: list[Answer]) -> list[dict[str, str]]:
    """Held-out answers of teacher and student side by side, evenly over the categories."""
    from potstill.machine import usable_cores
    from potstill.models.conversation import messages
    from potstill.models.engine import Engine, Sampling, default_threads

    section, answers = run.recipe.evaluate, run.recipe.answers
    chosen = held_out[:: max(1, len(held_out) // max(1, section.samples))][: section.samples]
    sampling = Sampling(
        temperature=0.0,
        top_p=answers.top_p,
        top_k=answers.top_k,
        seed=run.recipe.seed,
        max_tokens=section.sample_tokens,
        repeat_penalty=answers.repeat_penalty,
    )
    written: dict[int, str] = {}
    with (
        Engine(student, context=answers.context, slots=1, threads=default_threads(usable_cores())) as engine,
        run.progress.task("the student answers", len(chosen), "answers") as task,
    ):
        for index, answer in enumerate(chosen):
            written[index] = engine.reply(messages(answer.prompt.text), sampling).text
            task.advance()
    return [
        {
            "id": answer.prompt.id,
            "category": answer.prompt.category,
            "prompt": answer.prompt.text,
            "teacher": answer.text,
            "student": written[index],
        }
        for index, answer in enumerate(chosen)
    ]
