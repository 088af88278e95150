"""The conductor: what makes a stage stale, what is skipped, what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from listening import Listening
from potstill import pipeline
from potstill.pipeline import (
    STAGES,
    Stage,
    fingerprints,
    require_one_student,
    run_all,
    run_stage,
    stage_named,
    states,
)
from potstill.problem import Problem
from potstill.recipe import Recipe, validate_recipe
from potstill.run import WORKED, Run, open_run, write_json
from potstill.storage import Storage

ALL = [stage.name for stage in STAGES]


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / f"{name}.txt" for name in ("prompts", "vocab", "prune")}
    for name, path in paths.items():
        path.write_text(f"text of {name}")
    return paths


@pytest.fixture
def recipe(texts: dict[str, Path]) -> Recipe:
    return validate_recipe(
        {
            "name": "x",
            "prompts": {"files": [{"path": str(texts["prompts"])}]},
            "vocab": {"texts": [str(texts["vocab"])]},
            "prune": {"texts": [str(texts["prune"])]},
        },
        "test",
    )


@pytest.fixture
def run(tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose stages write one file each."""

    def work(stage: Stage, run: Run, folder: Path) -> None:
        for name in stage.reads:
            assert run.stage(name).is_dir()
        (folder / "made.txt").write_text(run.stamp(folder))

    monkeypatch.setattr(Stage, "work", work)
    return Run(tmp_path / "run", recipe, tmp_path / "home", Listening())


Otherwise = set[str]


@pytest.fixture
def otherwise(run: Run, monkeypatch: pytest.MonkeyPatch) -> Otherwise:
    """Stages in it come out as something else from now on, as under a budget."""
    names: Otherwise = set()
    work = Stage.work

    def other(stage: Stage, run: Run, folder: Path, **how: str) -> None:
        work(stage, run, folder, **how)
        if stage.name in names:
            (folder / "otherwise.txt").touch()

    monkeypatch.setattr(Stage, "work", other)
    return names


def said(run: Run) -> list[str]:
    assert isinstance(run.progress, Listening)
    lines, run.progress.lines = run.progress.lines, []
    return lines


def changed(recipe: Recipe, section: str, **update: Any) -> Recipe:
    part = getattr(recipe, section).model_copy(update=update)
    return recipe.model_copy(update={section: part})


def after(*first: str) -> set[str]:
    """These stages and all that read them, at first or second hand."""
    found = set(first)
    for stage in STAGES:
        if found & set(stage.reads):
            found.add(stage.name)
    return found


def changes(run: Run, other: Recipe) -> set[str]:
    before, now = fingerprints(run), fingerprints(Run(run.folder, other, run.home))
    return {name for name in ALL if before[name] != now[name]}


@pytest.mark.parametrize(
    ("section", "update", "first"),
    [
        ("prompts", {"limit": 5}, ("prompts",)),
        ("answers", {"temperature": 0.1}, ("answers",)),
        ("vocab", {"size": 4096}, ("vocab",)),
        ("signals", {"precision": "float16"}, ("signals",)),
        ("prune", {"ridge": 0.5}, ("prune",)),
        ("distill", {"learning_rate": 1e-3}, ("distill",)),
        ("distill", {"budget_minutes": 2.0}, ("distill",)),
        ("export", {"tolerance": 0.5}, ("export",)),
        ("evaluate", {"rounds": 9}, ("evaluate",)),
    ],
)
def test_a_key_makes_its_stage_and_all_that_read_it_stale(
    run: Run, recipe: Recipe, section: str, update: dict[str, Any], first: tuple[str, ...]
) -> None:
    assert changes(run, changed(recipe, section, **update)) == after(*first)


def test_signals_hold_what_training_will_ask_for(run: Run, recipe: Recipe) -> None:
    pairs = changed(recipe, "distill", hidden_pairs=({"student": 1, "teacher": 2},))
    paired = validate_recipe(pairs.model_dump(mode="json", warnings=False), "test")
    assert "signals" in changes(run, paired)
    topk = changed(recipe, "signals", format="topk")
    warm = validate_recipe(
        topk.model_dump(mode="json") | {"distill": {"temperature": {"start": 2.0, "end": 2.0}}}, "test"
    )
    run.recipe = topk
    assert "signals" in changes(run, warm)


def test_the_seed_counts_where_something_is_drawn(run: Run, recipe: Recipe) -> None:
    assert changes(run, recipe.model_copy(update={"seed": 1})) >= {"prompts", "answers", "distill"}


def test_the_name_of_a_run_shapes_what_is_exported(run: Run, recipe: Recipe) -> None:
    assert changes(run, recipe.model_copy(update={"name": "y"})) == after("export")


def test_another_teacher_makes_all_but_the_prompts_stale(run: Run, recipe: Recipe, tiny_checkpoint: Path) -> None:
    assert changes(run, changed(recipe, "teacher", model=str(tiny_checkpoint))) == set(ALL) - {"prompts"}


@pytest.mark.parametrize("name", ["prompts", "vocab", "prune"])
def test_a_text_counts_by_its_content(run: Run, texts: dict[str, Path], name: str) -> None:
    before = fingerprints(run)
    texts[name].write_text("other words")
    now = fingerprints(run)
    assert {stage for stage in ALL if before[stage] != now[stage]} == after(name)


def test_a_text_does_not_count_by_its_place(run: Run, recipe: Recipe, tmp_path: Path) -> None:
    moved = tmp_path / "moved.txt"
    moved.write_text(recipe.vocab.texts[0].read_text())
    assert changes(run, changed(recipe, "vocab", texts=(moved,))) <= {"report"}


def test_all_stages_run_in_order_and_only_once(run: Run) -> None:
    run_all(run)
    assert [line.split("]")[0].strip("[") for line in said(run)] == ALL
    assert {state.state for state in states(run)} == {"done"}
    run_all(run)
    assert said(run) == []


def test_a_run_may_stop_behind_a_stage_and_go_on(run: Run) -> None:
    run_all(run, until="vocab")
    assert [line.split("]")[0].strip("[") for line in said(run)] == ALL[:3]
    run_all(run)
    assert [line.split("]")[0].strip("[") for line in said(run)] == ALL[3:]
    with pytest.raises(Problem, match=r"There is no stage 'vocabulary'.*prompts, answers, vocab"):
        run_all(run, until="vocabulary")


def test_another_models_file_counts_by_what_it_holds(run: Run, recipe: Recipe, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"

    def fingerprint() -> str:
        against = recipe.evaluate.model_copy(update={"against": (str(other),)})
        return fingerprints(replace(run, recipe=recipe.model_copy(update={"evaluate": against})))["evaluate"]

    seen = set()
    for content in (b"one", b"another"):
        other.write_bytes(content)
        seen.add(fingerprint())
    assert len(seen) == 2 and fingerprints(run)["evaluate"] not in seen


def test_a_stage_reads_only_earlier_ones() -> None:
    for place, stage in enumerate(STAGES):
        assert set(stage.reads) <= set(ALL[:place])


def test_stale_stages_are_named_and_done_again(run: Run, recipe: Recipe) -> None:
    run_all(run)
    said(run)
    run.recipe = changed(recipe, "export", tolerance=0.5)
    stale = {state.name for state in states(run) if state.state == "stale"}
    assert stale == after("export")
    run_all(run)
    lines = said(run)
    assert [line.split("]")[0].strip("[") for line in lines] == [name for name in ALL if name in stale]
    assert all("was stale" in line for line in lines)


def test_a_newer_format_of_the_code_makes_a_stage_stale(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run_all(run)
    newer = tuple(
        Stage(one.name, one.function, one.reads, one.asks, one.format + (one.name == "prune")) for one in STAGES
    )
    monkeypatch.setattr(pipeline, "STAGES", newer)
    assert {state.name for state in states(run) if state.state == "stale"} == after("prune")


def test_a_killed_stage_is_partial_and_goes_on(run: Run) -> None:
    wanted = fingerprints(run)["prompts"]
    with pytest.raises(KeyboardInterrupt), run.building("prompts", wanted):
        raise KeyboardInterrupt
    assert next(states(run)).state == "partial"
    run_all(run)
    assert said(run)[0] == "[prompts] (goes on where it was)"


def test_a_stage_begun_for_another_recipe_does_not_go_on(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt), run.building("prompts", "another"):
        raise KeyboardInterrupt
    assert next(states(run)).state == "missing"
    run_all(run)
    assert said(run)[0] == "[prompts]"


def test_a_stage_refuses_what_is_not_ready(run: Run) -> None:
    with pytest.raises(Problem, match=r"`vocab` reads `answers` \(missing\)\. potstill answers "):
        run_stage(run, "vocab")
    assert not run.partial("vocab").exists()


def test_a_stage_refuses_what_is_stale(run: Run, recipe: Recipe) -> None:
    run_all(run)
    run.recipe = changed(recipe, "answers", temperature=0.1)
    with pytest.raises(Problem, match=r"`vocab` reads `answers` \(stale\)"):
        run_stage(run, "vocab")


def test_a_stage_asked_for_is_done_again(run: Run) -> None:
    run_all(run)
    said(run)
    run_stage(run, "export")
    assert said(run) == ["[export]"]
    assert {state.state for state in states(run)} == {"done"}  # it came out the same


@pytest.mark.parametrize("name", ["answers", "distill", "export"])
def test_what_comes_out_otherwise_makes_stale_what_was_made_from_it(run: Run, otherwise: Otherwise, name: str) -> None:
    run_all(run)
    otherwise.add(name)
    run_stage(run, name)
    stale = {state.name for state in states(run) if state.state == "stale"}
    assert stale == {other for other in ALL if name in stage_named(other).reads} | after(name) - {name}
    if name != "answers":
        with pytest.raises(Problem, match=r"`(export|evaluate)` is of an earlier student"):
            require_one_student(run)
    run_all(run)
    assert {state.state for state in states(run)} == {"done"}
    require_one_student(run)


@pytest.mark.parametrize("killed", ["export", "evaluate"])
def test_what_was_begun_of_an_earlier_student_does_not_go_on(run: Run, otherwise: Otherwise, killed: str) -> None:
    run_all(run)
    with pytest.raises(KeyboardInterrupt), run.building(killed, fingerprints(run)[killed]) as folder:
        (folder / "half.json").touch()
        raise KeyboardInterrupt
    otherwise.add("distill")
    run_stage(run, "distill")
    run_all(run)
    assert not (run.stage(killed) / "half.json").exists()


def test_other_settings_of_a_stage_count_once_it_is_done(run: Run, recipe: Recipe, monkeypatch: Any) -> None:
    run_all(run)
    run.recipe = changed(recipe, "evaluate", few=True)
    with monkeypatch.context() as failing:
        failing.setattr(Stage, "work", lambda *_: (_ for _ in ()).throw(Problem("no", "yes")))
        with pytest.raises(Problem):
            run_stage(run, "evaluate")
    assert {state.state for state in states(open_run(run.folder, run.home))} == {"done"}

    run_stage(run, "evaluate")

    again = open_run(run.folder, run.home)
    assert again.recipe.evaluate.few
    assert {state.name: state.state for state in states(again)} == dict.fromkeys(ALL, "done") | {"report": "stale"}


def test_a_failing_stage_leaves_the_earlier_ones(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(stage: Stage, run: Run, folder: Path) -> None:
        if stage.name == "vocab":
            raise Problem("no", "yes")
        (folder / "made.txt").write_text("")

    monkeypatch.setattr(Stage, "work", fail)
    with pytest.raises(Problem):
        run_all(run)
    assert [state.state for state in states(run)][:4] == ["done", "done", "partial", "missing"]


def test_every_stage_is_there_to_be_called() -> None:
    import importlib

    for stage in STAGES:
        module = importlib.import_module(f"potstill.{stage.name}")
        assert callable(getattr(module, stage.function))


def test_a_damaged_manifest_stops_before_any_work(run: Run) -> None:
    run.folder.mkdir()
    write_json(run.folder / "manifest.json", [])
    with pytest.raises(Problem, match=r"manifest\.json"):
        run_all(run)
    assert said(run) == []


def test_a_lost_run_folder_comes_back_from_storage(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.recipe = changed(run.recipe, "storage", url=(tmp_path / "away").as_uri())
    run_all(run)
    made = {name: (run.stage(name) / "made.txt").read_text() for name in ALL}
    shutil.rmtree(run.folder)
    made_anew: list[str] = []
    work = Stage.work
    monkeypatch.setattr(
        Stage, "work", lambda stage, *rest, **how: made_anew.append(stage.name) or work(stage, *rest, **how)
    )
    run_all(run)
    assert made_anew == ["evaluate", "report"]  # another machine's speed is not this one's
    assert {name: (run.stage(name) / "made.txt").read_text() for name in ALL} == made
    assert {state.state for state in states(run)} == {"done"}
    run_stage(run, "prune")  # asked for by name, a finished stage is done anew
    assert made_anew[2:] == ["prune"]
    shutil.rmtree(run.folder)
    run.recipe = changed(run.recipe, "prune", ridge=0.5)
    run_all(run)
    assert set(made_anew[3:]) == after("prune")


@pytest.mark.parametrize("lost", [False, True], ids=["here", "on another machine"])
def test_storage_gives_no_export_of_an_earlier_student(
    run: Run, otherwise: Otherwise, tmp_path: Path, lost: bool
) -> None:
    run.recipe = changed(run.recipe, "storage", url=(tmp_path / "away").as_uri())
    run_all(run)
    otherwise.update(("distill", "export"))
    run_stage(run, "distill")
    if lost:
        shutil.rmtree(run.folder)
    run_all(run)
    assert (run.stage("distill") / "otherwise.txt").exists()
    assert (run.stage("export") / "otherwise.txt").exists()


def test_what_could_not_be_kept_is_not_worked_out_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.recipe = changed(run.recipe, "storage", url=(tmp_path / "away").as_uri())
    done: list[str] = []
    work = Stage.work
    monkeypatch.setattr(Stage, "work", lambda stage, *rest, **how: done.append(stage.name) or work(stage, *rest, **how))

    def fail(*_: object) -> None:
        raise Problem("no network", "Wait.")

    with monkeypatch.context() as failing:
        failing.setattr(Storage, "keep_whole", fail)
        with pytest.raises(Problem, match="no network"):
            run_all(run)
    run_all(run)
    assert done == ALL
    assert not list(run.folder.rglob(WORKED))


def test_a_run_goes_on_where_the_files_it_was_made_from_are_not(run: Run, texts: dict[str, Path]) -> None:
    run_all(run)
    texts["prompts"].rename(texts["prompts"].with_suffix(".moved"))
    assert {state.state for state in states(open_run(run.folder, run.home))} == {"done"}
    run_stage(run, "report")
    texts["prompts"].write_text("another text")
    assert {state.name for state in states(run) if state.state == "stale"} == after("prompts")


def test_folders_of_somebody_s_own_are_no_stages(run: Run) -> None:
    own = run.folder / "prompts" / "mine.jsonl"
    own.parent.mkdir(parents=True)
    own.touch()
    with pytest.raises(Problem, match=r"prompts is there, and no run has made it\. Give another --run"):
        run_all(run)
    assert [path.name for path in run.folder.rglob("*")] == ["prompts", "mine.jsonl"]
