"""Storage: what is kept comes back whole or not at all, wherever it lies, whatever was done to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.registry import known_implementations

from listening import Listening
from potstill.pipeline import fingerprints
from potstill.problem import Problem
from potstill.recipe import validate_recipe
from potstill.run import Run
from potstill.storage import WHOLE, Storage, files_of, storage_of

FILES = {"log.jsonl": "one\n", "checkpoint-3/model.safetensors": "weights", "copy.json": "weights"}


@pytest.fixture
def storage(url: str) -> Storage:
    return Storage(url, "stage-0123", Listening())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "here", FILES)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def read(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def objects(storage: Storage) -> list[str]:
    """Every object below the place, by its path there."""
    system, root = fsspec.url_to_fs(f"{storage.url}/stage-0123")
    return sorted(path.removeprefix(root).lstrip("/") for path in system.find(root))


def overwrite(storage: Storage, kind: str, text: str) -> None:
    """Damage every object of a kind ("data" or "notes")."""
    system, root = fsspec.url_to_fs(f"{storage.url}/stage-0123/{kind}")
    for path in system.find(root):
        system.pipe_file(path, text.encode())


def said(storage: Storage) -> str:
    assert isinstance(storage.progress, Listening)
    return "\n".join(storage.progress.lines)


def test_what_is_kept_comes_back_elsewhere(storage: Storage, folder: Path, tmp_path: Path) -> None:
    assert storage.names() == [] and storage.fetch(["state"], tmp_path / "there") == set()
    storage.put("state", folder, files_of(folder))
    again = Storage(storage.url, "stage-0123", Listening())
    assert again.names() == ["state"]
    assert again.fetch(["state", "nothing"], tmp_path / "there") == {"state"}
    assert read(tmp_path / "there") == FILES
    assert Storage(storage.url, "stage-4567", Listening()).names() == []


def test_the_same_bytes_are_kept_once(storage: Storage, folder: Path) -> None:
    storage.put("one", folder, files_of(folder))
    before = objects(storage)
    assert len([path for path in before if path.startswith("data/")]) == 2  # three files, two of them alike
    storage.put("two", folder, files_of(folder))
    assert objects(storage) == sorted([*before, "notes/two.json"])


def test_forgetting_keeps_what_another_name_needs(storage: Storage, folder: Path, tmp_path: Path) -> None:
    storage.put("all", folder, files_of(folder))
    storage.put("log", folder, [folder / "log.jsonl"])
    storage.remove(["all"])
    assert storage.names() == ["log"] and len(objects(storage)) == 2
    assert storage.fetch(["log"], tmp_path / "there") == {"log"}
    storage.remove(["log", "nothing"])
    assert objects(storage) == []


def test_a_finished_stage_takes_the_place_of_its_parts(storage: Storage, folder: Path, tmp_path: Path) -> None:
    write(folder, {".fingerprint": "0123"})
    storage.put("part", folder, [folder / "log.jsonl"])
    storage.keep_whole(folder)
    assert storage.names() == [WHOLE]
    storage.fetch([WHOLE], tmp_path / "there")
    assert read(tmp_path / "there") == FILES


@pytest.mark.parametrize("text", ["wights", ""], ids=["other", "empty"])
def test_a_damaged_file_is_refused_and_can_be_kept_anew(
    storage: Storage, folder: Path, tmp_path: Path, text: str
) -> None:
    storage.put("state", folder, files_of(folder))
    storage.put("older", folder, [folder / "log.jsonl"])
    overwrite(storage, "data", text)
    assert storage.fetch(["state"], tmp_path / "there") == set()
    assert read(tmp_path / "there") == {} and storage.names() == ["older"]
    assert "state" in said(storage) and "damaged" in said(storage)
    storage.put("state", folder, files_of(folder))
    assert storage.fetch(["state"], tmp_path / "there") == {"state"}
    assert read(tmp_path / "there") == FILES


def test_a_lost_file_makes_its_name_nothing(storage: Storage, folder: Path, tmp_path: Path) -> None:
    storage.put("state", folder, files_of(folder))
    system, root = fsspec.url_to_fs(f"{storage.url}/stage-0123/data")
    system.rm_file(system.find(root)[-1])
    assert storage.fetch(["state"], tmp_path / "there") == set()
    assert read(tmp_path / "there") == {} and storage.names() == []


@pytest.mark.parametrize(
    "place",
    [
        *(
            "../out.json",
            "/out.json",
            "a/../../out.json",
            "C:\\out.json",
            "..\\out.json",
            ".fingerprint",
            "a/.b/out.json",
        ),
        *("optimizer.pt", "model.bin", "run.py", "plain"),
    ],
)
def test_a_note_that_names_what_may_not_travel_is_damaged(storage: Storage, tmp_path: Path, place: str) -> None:
    folder = write(tmp_path / "here", {"good.json": "[]"})
    storage.put("state", folder, files_of(folder))
    system, root = fsspec.url_to_fs(f"{storage.url}/stage-0123/notes/state.json")
    note = json.loads(system.cat_file(root))
    system.pipe_file(root, json.dumps({"good.json": note["good.json"], place: note["good.json"]}).encode())
    before = read(tmp_path)
    assert storage.fetch(["state"], tmp_path / "a" / "b") == set()
    assert {name for name in read(tmp_path).keys() - before.keys() if not name.startswith("away/")} == set()
    assert "damaged" in said(storage)


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", '{"a.json": {"sha256": "../../a", "size": 1}}'])
def test_a_note_without_sense_is_damaged(storage: Storage, folder: Path, tmp_path: Path, text: str) -> None:
    storage.put("state", folder, files_of(folder))
    overwrite(storage, "notes", text)
    assert storage.fetch(["state"], tmp_path / "there") == set()
    assert storage.names() == [] and "damaged" in said(storage)


def test_a_pickle_is_not_kept(storage: Storage, folder: Path) -> None:
    write(folder, {"optimizer.pt": ""})
    with pytest.raises(ValueError, match="not kept"):
        storage.put("state", folder, files_of(folder))
    storage.keep_whole(folder)
    assert objects(storage) == [] and "optimizer.pt" in said(storage)


class Killed(BaseException):
    """As Ctrl-C is."""


def killing(system: Any, method: str, monkeypatch: pytest.MonkeyPatch, after: int) -> list[str]:
    """Let a method of the file system die in its n-th call, half done. Returns: what it was called with."""
    real, calls = getattr(system, method), []

    def dying(source: str, target: str, **settings: Any) -> None:
        calls.append(source)
        real(source, target, **settings)
        if len(calls) == after:
            raise Killed

    monkeypatch.setattr(system, method, dying)
    return calls


def test_a_kill_while_keeping_leaves_nothing_half(
    storage: Storage, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(storage._system, "put_file", patch, after=2)
        storage.put("state", folder, files_of(folder))
    assert storage.names() == []
    sent = killing(storage._system, "put_file", monkeypatch, after=99)
    storage.put("state", folder, files_of(folder))
    assert len(sent) == 1  # of the two that are needed, one was there
    assert storage.fetch(["state"], tmp_path / "there") == {"state"}
    assert len(objects(storage)) == 4  # with what the kill left behind
    storage.remove([])
    assert len(objects(storage)) == 3


def test_a_kill_while_fetching_goes_on(
    storage: Storage, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("state", folder, files_of(folder))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(storage._system, "get_file", patch, after=2)
        storage.fetch(["state"], tmp_path / "there")
    assert files_of(tmp_path / "there") == []
    fetched = killing(storage._system, "get_file", monkeypatch, after=99)
    assert storage.fetch(["state"], tmp_path / "there") == {"state"}
    assert len(fetched) == 1 and read(tmp_path / "there") == FILES


def test_what_tells_that_all_is_there_comes_last(tmp_path: Path) -> None:
    write(tmp_path, {"c-1/a.json": "", "log.jsonl": "", "c-1/trainer_state.json": "", ".hidden/a": "", ".b": ""})
    assert [path.relative_to(tmp_path).as_posix() for path in files_of(tmp_path)] == [
        "log.jsonl",
        "c-1/a.json",
        "c-1/trainer_state.json",
    ]


def test_what_is_missing_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(known_implementations, "lorry", {"class": "lorryfs.FS", "err": "Install lorryfs"})
    with pytest.raises(Problem, match=r"storage\.url = 'lorry://a'.*Install lorryfs.*pip"):
        Storage("lorry://a", "x", Listening())
    with pytest.raises(Problem, match=r"storage\.url = 'boat://a' cannot be used.*Check address"):
        Storage("boat://a", "x", Listening())
    (tmp_path / "occupied").write_text("a file")
    with pytest.raises(Problem, match=r"storage\.url = .*occupied' cannot be used"):
        Storage((tmp_path / "occupied").as_uri(), "x", Listening()).put("a", folder, files_of(folder))


def run_with(folder: Path, url: str) -> Run:
    return Run(folder, validate_recipe({"name": "t", "storage": {"url": url}}, "test"), folder / "home")


def test_each_fingerprint_has_its_own_place(url: str, tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", url)
    assert storage_of(run, "signals") is None  # nothing is being built
    with pytest.raises(Killed), run.building("signals", "one") as folder:
        kept = storage_of(run, "signals")
        assert kept is not None
        kept.put("a", folder, [write(folder, {"a.json": ""}) / "a.json"])
        raise Killed
    for fingerprint, names in (("two", []), ("one", ["a"])):
        with pytest.raises(Killed), run.building("signals", fingerprint):
            kept = storage_of(run, "signals")
            assert kept is not None and kept.names() == names
            raise Killed
    with pytest.raises(Killed), run_with(tmp_path / "run", "").building("signals", "one"):
        assert storage_of(run_with(tmp_path / "run", ""), "signals") is None
        raise Killed


def test_where_files_are_kept_changes_no_fingerprint(tmp_path: Path) -> None:
    here, away = run_with(tmp_path, ""), run_with(tmp_path, "memory://a")
    assert fingerprints(here) == fingerprints(away)
    assert "storage" not in str(away.recipe)


@pytest.mark.parametrize("url", ["shared/folder", "/shared/folder", "s3:bucket", "s3://"])
def test_an_address_without_a_file_system_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"storage\.url"):
        run_with(tmp_path, url)
