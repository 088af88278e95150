"""The conductor: the stages in their order, and what each depends on.

In:  a `Run` whose recipe says what is wanted.
Out: finished stage folders; fingerprints that tell whether one is stale.
Does not know: what a stage computes; words for people beyond one line a stage.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from potstill.distill import ranks
from potstill.machine import freed_memory_kept
from potstill.models.base import base_identity
from potstill.models.identity import file_hash, read_object
from potstill.models.teacher import teacher_identity
from potstill.problem import Problem
from potstill.progress import Silent
from potstill.recipe import Recipe, TeacherSection
from potstill.run import WORKED, Run, digest, write_json
from potstill.storage import WHOLE, storage_of


@dataclass(frozen=True)
class Stage:
    """One stage: module, CLI verb and folder share its name.

    Args:
        name: of all three. function: in `potstill.<name>`, called with the run and the folder to fill.
        reads: earlier stages. asks: what of the recipe shapes the result. format: raise it when the code's result
        changes for the same recipe.
    """

    name: str
    function: str
    reads: tuple[str, ...]
    asks: Callable[[Recipe], Any]
    format: int = 1

    def work(self, run: Run, folder: Path, **how: str) -> None:
        """Do the stage. Its module is imported only now: most need torch. `how`: what doesn't change the result."""
        with freed_memory_kept():
            getattr(importlib.import_module(f"potstill.{self.name}"), self.function)(run, folder, **how)


def _stored_temperatures(recipe: Recipe) -> tuple[float, ...]:
    """Hidden states serve every temperature; topk signals hold a rest for each that the schedule names."""
    return recipe.distill.temperature.values() if recipe.signals.format == "topk" else ()


def _stored_attention(recipe: Recipe) -> list[tuple[int, ...]]:
    """Nothing where no map is wanted, so that signals made before there were any stay fresh."""
    return [recipe.attention_layers()] if recipe.attention_layers() else []


def _kept_away(recipe: Recipe) -> list[tuple[Path, str]]:
    """Evaluation sets that no training prompt may overlap with: as a whole, however many items are scored."""
    return [(file.path, file.format) for file in recipe.evaluate.files]


def _asking_teacher(recipe: Recipe) -> list[TeacherSection]:
    """Whoever makes up prompts shapes them."""
    return [recipe.teacher] if recipe.prompts.synthetic.count else []


def _measured(recipe: Recipe) -> Any:
    """Another model's file counts by what it holds; a run without one stays as fresh as ever."""
    paths = {one: Path(one).expanduser() for one in recipe.evaluate.against}
    others = {one: path for one, path in paths.items() if path.is_file() or path.is_absolute()}
    named = tuple(one for one in recipe.evaluate.against if one not in others)
    section = recipe.evaluate.model_copy(update={"against": named})
    return [section, list(others.values())] if others else section


def _not_shipped(recipe: Recipe) -> list[str]:
    """A server's answers are its own throughout; others' fingerprints stay as they were."""
    return ["nothing shipped"] if recipe.answers.server else []


def _last_norm(recipe: Recipe) -> list[str]:
    """How a rotated student's last norm is measured; others' have always been so."""
    return ["as healed"] if recipe.prune.narrow == "rotate" else []


def _seed_of_random_weights(recipe: Recipe) -> list[int]:
    return [recipe.seed] if recipe.prune.initialise == "random" else []


def _other_tokens(recipe: Recipe) -> list[Any]:
    """A base may bring a tokenizer of its own; word vectors that bind it are drawn by the seed."""
    return [recipe.prune.base, recipe.seed] if recipe.prune.base else []


STAGES = (
    Stage("prompts", "collect", (), lambda r: [r.prompts, r.seed, *_kept_away(r), *_asking_teacher(r)], format=2),
    Stage(
        "answers", "write_answers", ("prompts",), lambda r: [r.answers, r.teacher, r.seed, *_not_shipped(r)], format=2
    ),
    Stage(
        "vocab", "build_vocabulary", ("answers",), lambda r: [r.vocab, r.teacher, r.signals.context, *_other_tokens(r)]
    ),
    Stage(
        "signals",
        "teach",
        ("answers", "vocab"),
        lambda r: [r.signals, r.teacher, r.teacher_layers(), _stored_temperatures(r), *_stored_attention(r)],
        format=2,
    ),
    Stage(
        "prune",
        "prune",
        ("vocab", "signals"),
        lambda r: [r.prune, r.teacher, r.signals.batch_tokens, *_seed_of_random_weights(r), *_last_norm(r)],
        format=2,
    ),
    Stage("distill", "distill", ("prune", "signals"), lambda r: [r.distill, r.seed], format=7),
    Stage("export", "export", ("distill", "vocab"), lambda r: [r.export, r.name]),
    Stage("evaluate", "evaluate", ("answers", "signals", "prune", "distill", "export"), _measured, format=9),
    Stage(
        "report", "report", ("prompts", "answers", "vocab", "signals", "prune", "distill", "export", "evaluate"), str
    ),
)

SOURCES = "sources.json"
"""In a run folder: hashes of the files that its recipe names."""
SHARED = "distill"
"""The stage that several processes may do together."""


MEASURED = ("evaluate", "report")
"""What they say holds for the machine that they ran on, so no other one fetches it."""


def stage_named(name: str) -> Stage:
    """The stage of that name."""
    return next(stage for stage in STAGES if stage.name == name)


def names_until(last: str | None) -> list[str]:
    """Names of the stages as far as `last`, or of all. Raises: Problem where there is no such stage."""
    names = [stage.name for stage in STAGES]
    if last is not None and last not in names:
        raise Problem(f"There is no stage {last!r}", f"Stages are {', '.join(names)}.")
    return names if last is None else names[: names.index(last) + 1]


def fingerprints(run: Run) -> dict[str, str]:
    """What each stage's fingerprint should be: recipe, files it names, inputs, format.

    Inputs count by their fingerprints and by what they came out as: under a budget, or written by a server, a stage
    that is done anew comes out as something else. So a fingerprint holds as long as no earlier stage is built.
    """
    return _with_sources(run)[0]


def _fingerprints_kept(run: Run) -> dict[str, str]:
    """The same, and the run remembers the files: it may go on where they are not, on another machine."""
    known, seen = _with_sources(run)
    write_json(run.folder / SOURCES, seen)
    return known


def _with_sources(run: Run) -> tuple[dict[str, str], Mapping[str, list[str]]]:
    # Teacher and base count by the hash of their weights, whatever name or path they were given by.
    identity = TeacherSection(model=teacher_identity(run.recipe.teacher.model, run.home))
    prune = run.recipe.prune
    if prune.base is not None:
        prune = prune.model_copy(update={"base": base_identity(prune.base, run.home)})
    recipe = run.recipe.model_copy(update={"teacher": identity, "prune": prune})
    known: dict[str, str] = {}
    inputs: dict[str, Any] = {}
    seen: dict[str, list[str]] = read_object(run.folder / SOURCES)
    manifest = run.manifest()
    for stage in STAGES:
        asked = _plain(stage.asks(recipe), run.home, seen)
        reads = {name: inputs[name] for name in stage.reads}
        known[stage.name] = made_as = digest([stage.name, stage.format, asked, reads])
        entry = manifest.get(stage.name, {})
        content = entry.get("content") if entry.get("fingerprint") == made_as else None
        inputs[stage.name] = [made_as, content] if content else made_as  # a run of before this was noted has none
    return known, seen


def _plain(value: Any, home: Path, seen: dict[str, list[str]]) -> Any:
    """Recipe parts as JSON; a file counts by what it holds, or held when it was last `seen`, not by where it lies."""
    if hasattr(value, "model_dump"):
        return {name: _plain(getattr(value, name), home, seen) for name in type(value).model_fields}
    if isinstance(value, list | tuple):
        return [_plain(part, home, seen) for part in value]
    if isinstance(value, Path):
        if value.exists():
            files = sorted(value.rglob("*")) if value.is_dir() else [value]
            seen[str(value)] = [file_hash(file, home) for file in files if file.is_file()]
        return seen.get(str(value), [])
    return value


@dataclass(frozen=True)
class StageState:
    """Where a stage stands: "done", "stale" (made by another recipe, code or input), "partial" or "missing"."""

    name: str
    state: str
    entry: dict[str, Any]


def states(run: Run) -> Iterator[StageState]:
    """Every stage's state, in order."""
    manifest, wanted = run.manifest(), fingerprints(run)
    for stage in STAGES:
        state = _state(run, stage.name, wanted[stage.name])
        yield StageState(stage.name, state, manifest.get(stage.name, {}))


def _state(run: Run, name: str, wanted: str) -> str:
    made_with = run.fingerprint(name)
    if made_with == wanted:
        return "done"
    if run.stamp(run.partial(name)) == wanted:
        return "partial"
    return "missing" if made_with is None else "stale"


def require_one_student(run: Run) -> None:
    """Raises: Problem where what was exported or measured is of an earlier student than the run has now."""
    manifest = run.manifest()
    for name, student in (("export", "distill"), ("evaluate", "distill"), ("evaluate", "export")):
        read, there = manifest.get(name, {}).get("inputs", {}).get(student), manifest.get(student, {}).get("content")
        if read and there and read != there:
            raise Problem(f"{run.folder}: `{name}` is of an earlier student", run.command(name))


def _refuse_strangers(run: Run) -> None:
    """Raises: Problem where folders of somebody's own are called like stages, which would take their place."""
    if not any((run.folder / name).exists() for name in ("recipe.json", "manifest.json")):
        for stage in STAGES:
            if (run.folder / stage.name).exists():
                raise Problem(f"{run.folder / stage.name} is there, and no run has made it", "Give another --run.")


def run_all(run: Run, until: str | None = None) -> None:
    """Do every stage, or those as far as `until`, that isn't done; say which were stale."""
    ranks.refuse_several("run")
    _refuse_strangers(run)
    with run.alone():
        run.keep_recipe()
        for name in names_until(until):
            wanted = _fingerprints_kept(run)[name]  # anew for each, for it hangs on what was built before
            state = _state(run, name, wanted)
            if state != "done":
                _build(run, stage_named(name), wanted, state)


def run_stage(run: Run, name: str, **how: str) -> None:
    """Do one stage, done before or not. Raises: Problem where a stage it reads is not done.

    Args:
        how: for the stage alone, such as `engine`.
    """
    stage = stage_named(name)
    if name != SHARED:
        ranks.refuse_several(name)
    if ranks.rank():
        # The first rank holds the folder, its manifest and the terminal; the others meet it in the stage.
        stage.work(replace(run, progress=Silent()), run.partial(name))
        return
    with run.alone():
        standing = {state.name: state.state for state in states(run)}
        unready = [needed for needed in stage.reads if standing[needed] != "done"]
        if unready:
            raise Problem(
                f"`{name}` reads {', '.join(f'`{needed}` ({standing[needed]})' for needed in unready)}",
                run.command(unready[0]),
            )
        _build(run, stage, _fingerprints_kept(run)[name], standing[name], **how)
        run.keep_recipe()  # a stage may have been asked for with other settings than the run began with


def _build(run: Run, stage: Stage, fingerprint: str, state: str, **how: str) -> None:
    note = {"stale": " (was stale: its recipe, input or code has changed)", "partial": " (goes on where it was)"}
    run.progress.say(f"[{stage.name}]{note.get(state, '')}")
    with run.building(stage.name, fingerprint, stage.reads) as folder:
        storage = storage_of(run, stage.name) if stage.name not in MEASURED else None
        worked = folder / WORKED
        if storage and state != "done" and not worked.exists() and storage.fetch([WHOLE], folder):
            run.progress.say(f"[{stage.name}] fetched whole from {storage.url}")
            worked.touch()
            storage = None  # which has it
        if not worked.exists() or ranks.count() > 1:  # the other ranks wait in the stage to be told that it is done
            stage.work(run, folder, **how)
            worked.touch()
        if storage:
            storage.keep_whole(folder)
