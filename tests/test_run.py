"""A run folder: a stage is whole or absent, what is stale goes, damage is told in words."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from listening import Listening
from potstill.problem import Problem
from potstill.recipe import Recipe
from potstill.run import Run, content_of, default_home, digest, open_run, read_json, write_json, write_text

RECIPE = Recipe.model_validate({"name": "x"})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", RECIPE, tmp_path / "home")


def build(run: Run, name: str, fingerprint: str, content: str) -> None:
    with run.building(name, fingerprint) as folder:
        (folder / "made.txt").write_text(content)


def break_off(run: Run, name: str, fingerprint: str) -> None:
    with pytest.raises(KeyboardInterrupt), run.building(name, fingerprint) as folder:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt


def test_a_stage_appears_when_it_is_whole(run: Run) -> None:
    with run.building("vocab", "f1") as folder:
        assert run.stamp(folder) == "f1"
        assert not (run.folder / "vocab").exists() and run.fingerprint("vocab") is None
        (folder / "made.txt").write_text("a")
    assert [path.name for path in run.stage("vocab").iterdir()] == ["made.txt"]
    assert not run.partial("vocab").exists()
    assert run.fingerprint("vocab") == "f1"
    assert {"finished", "seconds", "peak_memory_mb", "versions", "machine"} <= set(run.manifest()["vocab"])


def test_a_broken_off_stage_is_not_a_stage(run: Run) -> None:
    break_off(run, "vocab", "f1")
    assert run.fingerprint("vocab") is None
    with pytest.raises(Problem, match="the stage `vocab` has not run"):
        run.stage("vocab")


def test_a_broken_off_stage_goes_on(run: Run) -> None:
    break_off(run, "vocab", "f1")
    with run.building("vocab", "f1") as folder:
        assert (folder / "half.txt").read_text() == "half"
    assert (run.stage("vocab") / "half.txt").exists()


def test_what_was_begun_for_another_recipe_waits_until_this_one_is_finished(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.progress = heard = Listening()
    break_off(run, "vocab", "f1")
    with pytest.raises(KeyboardInterrupt), run.building("vocab", "f2") as folder:
        assert not (folder / "half.txt").exists()
        raise KeyboardInterrupt
    assert heard.lines == ["[vocab] what was begun from other settings or input waits until this is finished"]
    with pytest.raises(KeyboardInterrupt), run.building("vocab", "f1") as folder:
        assert (folder / "half.txt").read_text() == "half"
        raise KeyboardInterrupt
    assert heard.lines[-1] == "[vocab] what was set aside is taken up again"
    with monkeypatch.context() as killing:
        killing.setattr(shutil, "rmtree", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        break_off(run, "vocab", "f3")
    assert not list(run.folder.glob(".vocab.f2.aside"))  # what is half removed is not taken up
    break_off(run, "vocab", "f3")  # one waits, not any number
    assert len(list(run.folder.glob(".vocab.*.aside"))) == 1
    build(run, "vocab", "f3", "whole")
    assert {path.name for path in run.folder.iterdir()} == {"vocab", "manifest.json"}


def test_what_was_begun_by_nobody_knows_whom_goes(run: Run) -> None:
    run.partial("vocab").mkdir(parents=True)
    (run.partial("vocab") / "old.txt").write_text("old")
    build(run, "vocab", "f1", "new")
    assert [path.name for path in run.stage("vocab").iterdir()] == ["made.txt"]


def test_the_old_result_stays_until_the_new_one_is_whole(run: Run) -> None:
    build(run, "vocab", "f1", "one")
    break_off(run, "vocab", "f2")
    assert run.fingerprint("vocab") == "f1" and (run.stage("vocab") / "made.txt").read_text() == "one"
    build(run, "vocab", "f2", "two")
    assert run.fingerprint("vocab") == "f2" and (run.stage("vocab") / "made.txt").read_text() == "two"


@pytest.mark.parametrize("wanted", ["f1", "f2"], ids=["the same recipe", "another recipe"])
@pytest.mark.parametrize("last", range(6))
def test_killed_while_it_takes_the_old_one_s_place_nothing_is_lost(
    run: Run, monkeypatch: pytest.MonkeyPatch, last: int, wanted: str
) -> None:
    build(run, "vocab", "f1", "old")
    calls = iter(range(100))

    def mortal(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            if next(calls) == last:
                raise KeyboardInterrupt
            return real(*arguments, **named)

        return call

    suppressed = contextlib.suppress(KeyboardInterrupt)
    with monkeypatch.context() as killing, suppressed, run.building("vocab", wanted) as folder:
        (folder / "made.txt").write_text("new")
        for owner, name in ((os, "replace"), (Path, "unlink"), (shutil, "rmtree")):
            killing.setattr(owner, name, mortal(getattr(owner, name)))
    partial = run.partial("vocab")
    assert partial.exists() == (last < 3)  # the old one goes aside, the manifest is written, the new one comes
    if partial.exists():
        assert run.stamp(partial) == wanted and (partial / "made.txt").read_text() == "new"
    else:
        assert run.fingerprint("vocab") == wanted and (run.stage("vocab") / "made.txt").read_text() == "new"
    build(run, "vocab", wanted, "newest")
    assert (run.stage("vocab") / "made.txt").read_text() == "newest"
    assert {path.name for path in run.folder.iterdir()} == {"vocab", "manifest.json"}


def test_time_counts_over_a_break(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 40.0, 100.0, 102.0])
    # Only this module's clock: the servers that other tests left running read the real one.
    monkeypatch.setattr("potstill.run.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    break_off(run, "vocab", "f1")
    build(run, "vocab", "f1", "a")
    assert run.manifest()["vocab"]["seconds"] == 42.0


def test_a_deleted_folder_is_not_done(run: Run) -> None:
    build(run, "vocab", "f1", "a")
    (run.stage("vocab") / "made.txt").unlink()
    run.stage("vocab").rmdir()
    assert run.fingerprint("vocab") is None


def test_two_processes_never_share_a_run(run: Run) -> None:
    other = (
        "import sys; from pathlib import Path; from potstill.run import Run; from potstill.recipe import Recipe\n"
        "with Run(Path(sys.argv[1]), Recipe(name='x')).alone(): pass\n"
    )
    with run.alone():
        found = subprocess.run([sys.executable, "-c", other, str(run.folder)], capture_output=True, text=True)
        assert found.returncode == 1 and "is in use by another potstill" in found.stderr
    assert subprocess.run([sys.executable, "-c", other, str(run.folder)], capture_output=True).returncode == 0


def test_a_run_is_opened_as_it_was_kept(run: Run) -> None:
    run.keep_recipe()
    assert open_run(run.folder).recipe == RECIPE


def test_no_run_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="is not a run folder"):
        open_run(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"name": 3}', '{"name": "x", "gone": 1}'])
def test_a_damaged_recipe_is_told_in_words(run: Run, text: str) -> None:
    run.keep_recipe()
    (run.folder / "recipe.json").write_text(text)
    with pytest.raises(Problem, match=r"recipe\.json"):
        open_run(run.folder)


def test_a_recipe_of_another_version_is_said_to_be_one(run: Run) -> None:
    run.keep_recipe()
    write_json(run.folder / "recipe.json", {"name": "x", "vocab": {"sise": 3}})
    with pytest.raises(Problem, match=r"(?s)vocab\.sise.*another version.*its export/"):
        open_run(run.folder)


@pytest.mark.parametrize("text", ["", '{"stages": {"voc', "[]", "{}", '{"stages": 3}'])
def test_a_damaged_manifest_is_told_in_words(run: Run, text: str) -> None:
    build(run, "vocab", "f1", "a")
    (run.folder / "manifest.json").write_text(text)
    with pytest.raises(Problem, match=r"manifest\.json"):
        run.fingerprint("vocab")


def test_files_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "note.json"
    write_json(path, {"钥匙": 1})
    assert "钥匙" in path.read_text(encoding="utf-8") and read_json(path) == {"钥匙": 1}

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="no space"):
        write_text(path, "{}")
    assert json.loads(path.read_bytes()) == {"钥匙": 1}


def test_a_missing_file_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="is missing"):
        read_json(tmp_path / "none.json")


def test_a_digest_depends_on_content_alone() -> None:
    assert digest({"a": 1, "b": [2.0, None]}) == digest({"b": [2.0, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2}) != digest({"a": "2"})


def test_home_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POTSTILL_HOME", str(tmp_path))
    assert default_home() == tmp_path
    monkeypatch.setenv("POTSTILL_HOME", "~/big")
    assert default_home() == Path.home() / "big"  # no shell has read it
    monkeypatch.setenv("POTSTILL_HOME", "")
    assert default_home() == Path.home() / ".cache" / "potstill"


def test_content_is_what_a_stage_has_made_and_not_how(tmp_path: Path) -> None:
    arrays = {"b": np.arange(3.0), "a": np.arange(2)}
    contents = []
    for name, notes in (
        ("one", {"x": "1", "y": "2"}),
        ("other", {"y": "2", "x": "1"}),
        ("third", {"x": "2", "y": "1"}),
    ):
        folder = tmp_path / name
        (folder / "student").mkdir(parents=True)
        save_file(arrays, folder / "student" / "model.safetensors", metadata=notes)
        (folder / "report.json").write_text(name)
        (folder / ".hidden").write_text(name)
        contents.append(content_of(folder))
    assert contents[0] == contents[1] != contents[2]
    (tmp_path / "one" / "student" / "model.safetensors").write_text("torn")
    assert content_of(tmp_path / "one") != contents[0]
