"""A training whose machine is lost goes on elsewhere, and ends as if nothing had happened."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_store import build_store
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from listening import Listening
from potstill.distill import Log, distill
from potstill.distill.away import bring_back
from potstill.distill.schedule import Clock
from potstill.recipe import validate_recipe
from potstill.run import Run
from potstill.storage import Storage, files_of
from tiny import build_model

FINGERPRINT = "0123456789abcdef"
Machine = Callable[..., Run]


@pytest.fixture
def machine(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tiny_tokenizer_dir: Path, tmp_path: Path
) -> Machine:
    """A function that gives a run folder up to `prune`, the same on every machine."""

    def build(name: str, url: str, **distill: object) -> Run:
        settings = {"epochs": 2.0, "precision": "float32", "batch_tokens": 40, "chunk_rows": 4, "learning_rate": 1e-3}
        section = settings | {"checkpoint_seconds": 1e-6} | distill
        asked = {"name": "t", "storage": {"url": url}, "export": {"ship": "Q8_0"}, "distill": section}
        recipe = validate_recipe(asked, "test")
        run = Run(tmp_path / name, recipe, progress=Listening())
        build_model(tiny_tokenizer, seed=1).save_pretrained(run.folder / "prune" / "student")
        (run.folder / "vocab").symlink_to(tiny_tokenizer_dir)
        build_store(tiny_model, run.folder / "signals", "hidden")
        return run

    return build


def train(run: Run) -> bytes:
    """Returns: the finished student's weights, bit by bit (safetensors writes its header's lines in any order)."""
    with run.building("distill", FINGERPRINT) as folder:
        distill(run, folder)
    content = (run.stage("distill") / "student" / "model.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def steps(run: Run) -> int:
    return len((run.stage("distill") / "log.jsonl").read_text().splitlines())


def lose(run: Run, monkeypatch: pytest.MonkeyPatch, after: int, learner: str = "distill.partial") -> None:
    """Train until the machine is lost in step `after + 1` of a learner, with all that lies on it."""
    real = Log.write

    def write(log: Log, step: int, progress: float, seconds: float) -> None:
        if step > after and log.path.parent.name == learner:
            raise KeyboardInterrupt
        real(log, step, progress, seconds)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Log, "write", write)
        train(run)
    shutil.rmtree(run.folder)


def kept(url: str) -> Storage:
    return Storage(url, f"distill-{FINGERPRINT}", Listening())


@pytest.mark.parametrize("settings", [{}, {"finish": {"share": 0.6, "type": "Q8_0"}}], ids=["plain", "finish"])
def test_a_training_goes_on_where_the_lost_machine_was(
    machine: Machine, url: str, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    whole = machine("whole", "", **settings)
    expected = train(whole)
    lose(machine("lost", url, **settings), monkeypatch, after=4)
    assert kept(url).names() == ["state-000003", "state-000004"]
    second = machine("second", url, **settings)
    assert train(second) == expected
    assert steps(second) == steps(whole) > 5
    assert isinstance(second.progress, Listening)
    assert any("goes on from state-000004" in line for line in second.progress.lines)
    assert not list(second.stage("distill").glob("checkpoint-*"))


def test_a_damaged_state_gives_way_to_the_one_before(
    machine: Machine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(machine("whole", ""))
    lose(machine("lost", url), monkeypatch, after=4)
    storage = kept(url)
    note = storage._note("state-000004")
    assert note is not None
    storage._system.pipe_file(storage._data_path(note["checkpoint-4/model.safetensors"]), b"other bytes")
    second = machine("second", url)
    assert train(second) == expected
    assert isinstance(second.progress, Listening)
    assert any("goes on from state-000003" in line for line in second.progress.lines)


def test_its_own_folder_comes_first(machine: Machine, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lose(machine("lost", url), monkeypatch, after=4)
    here = machine("here", url)
    folder = here.partial("distill")
    (folder / "checkpoint-1").mkdir(parents=True)
    (folder / ".fingerprint").write_text(FINGERPRINT)
    train(here)
    assert isinstance(here.progress, Listening)
    assert not any("goes on from" in line for line in here.progress.lines)


def test_a_killed_fetching_is_no_training_of_its_own(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, there = tmp_path / "here", tmp_path / "there"
    for name in ("log.jsonl", "checkpoint-1/model.safetensors", "checkpoint-1/trainer_state.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    storage = kept(url)
    storage.put("state-000001", folder, files_of(folder))
    for after in (1, 3):  # before the first file is put into place; before the last
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            calls: list[Path] = []

            def dying(path: Path, target: Path, calls: list[Path] = calls, after: int = after) -> None:
                calls.append(path)
                if len(calls) == after:
                    raise KeyboardInterrupt
                shutil.move(path, target)

            patch.setattr(Path, "replace", dying)
            bring_back(storage, there)
        assert not (there / "checkpoint-1" / "trainer_state.json").exists()
    bring_back(storage, there)
    assert [path.read_text() for path in files_of(there)] == [path.read_text() for path in files_of(folder)]


def test_a_lost_adapter_does_not_cost_the_student(machine: Machine, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    monkeypatch.setattr(Clock, "used", lambda clock: 0.3 * clock.steps)
    settings = {"epochs": 1.0, "adapter": {"category": "test", "minutes": 0.03, "rank": 4}}
    lose(machine("lost", url, **settings), monkeypatch, after=3, learner="adapter.partial")
    newest = kept(url)._note(kept(url).names()[-1])
    assert newest is not None and "adapter.partial/checkpoint-3/model.safetensors" in newest
    second = machine("second", url, **settings)
    train(second)
    weights = (second.stage("distill") / "student" / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == newest["student/model.safetensors"].sha256
    assert (second.stage("distill") / "adapter" / "report.json").exists()
