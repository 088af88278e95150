"""Where a pack comes from: a folder here, or a folder behind an http(s) address.

In:  a path or an address; a file's name and size.
Out: the manifest's bytes; files appended to where an earlier try stopped.
Does not know: what a manifest means, whether a file is the right one: whoever asks checks its hash.
"""

from __future__ import annotations

import errno
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Protocol

from potstill.models.download import CHUNK, unwritable
from potstill.pack.manifest import MANIFEST, MOST_BYTES, PackFile
from potstill.problem import Problem
from potstill.progress import Progress, Task

SECONDS = 20.0
"""How long a server may say nothing."""
ATTEMPTS = 4
"""Connections in a row that may bring nothing before a download is given up."""


class Source(Protocol):
    """A place that holds a pack."""

    def manifest(self) -> bytes:
        """The bytes of its manifest, a little more than allowed where there are too many. Raises: Problem."""

    def refuse_unlisted(self, names: set[str]) -> None:
        """Raise Problem where the place holds more than `names` and the manifest."""

    def fetch(self, file: PackFile, partial: Path, progress: Progress) -> None:
        """Append to `partial` what it lacks of the file. Raises: Problem where that can't be had."""


def source_of(place: str | Path) -> Source:
    """The source a user means: an address, or a folder. Raises: Problem."""
    text = str(place)
    scheme = text.partition("://")[0].casefold() if "://" in text else ""
    if scheme in ("http", "https"):
        return WebFolder(text)
    if scheme:
        raise Problem(f"{text}: packs are fetched over http or https", "Give such an address, or a folder.")
    return LocalFolder(Path(place))


class LocalFolder:
    """A folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.parent if folder.name == MANIFEST else folder

    def manifest(self) -> bytes:
        """See `Source`."""
        with self._checked(MANIFEST).open("rb") as file:
            return file.read(MOST_BYTES + 1)

    def refuse_unlisted(self, names: set[str]) -> None:
        """See `Source`."""
        unlisted = sorted(path.name for path in self.folder.iterdir() if path.name not in {*names, MANIFEST})
        if unlisted:
            raise Problem(
                f"{self.folder} holds {unlisted[0]!r}, which its manifest does not list",
                "Remove it, or get the pack again.",
            )

    def fetch(self, file: PackFile, partial: Path, progress: Progress) -> None:
        """See `Source`."""
        path = self._checked(file.name)
        if path.stat().st_size != file.bytes:
            raise Problem(
                f"{path} has {path.stat().st_size:,} bytes, its manifest says {file.bytes:,}", "Get it again."
            )
        try:
            with (
                progress.task(file.name, file.bytes, "B") as task,
                path.open("rb") as here,
                partial.open("wb") as there,
            ):
                while chunk := here.read(CHUNK):
                    there.write(chunk)
                    task.advance(len(chunk))
        except OSError as error:
            raise unwritable(partial, error) from error

    def _checked(self, name: str) -> Path:
        path = self.folder / name
        if path.is_symlink():
            raise Problem(f"{path} is a link, which may lead anywhere", "Copy the file itself into the pack.")
        if not path.is_file():
            raise Problem(f"{path} is missing", "Give the folder of a whole pack.")
        return path


class WebFolder:
    """A folder behind an address; proxies and certificates are the user's own."""

    def __init__(self, address: str) -> None:
        self.address = address.removesuffix(MANIFEST).rstrip("/") + "/"

    def manifest(self) -> bytes:
        """See `Source`."""
        try:
            with self._open(MANIFEST) as response:
                content: bytes = response.read(MOST_BYTES + 1)
        except (OSError, HTTPException, ValueError) as error:
            raise Problem(
                f"{self.address}{MANIFEST} can't be had ({_short(error)})", "Check address and network."
            ) from None
        return content

    def refuse_unlisted(self, names: set[str]) -> None:
        """An address can't be listed, and nothing but what is listed is fetched from it."""

    def fetch(self, file: PackFile, partial: Path, progress: Progress) -> None:
        """See `Source`."""
        failures = 0
        with progress.task(file.name, file.bytes, "B") as task:
            task.advance(_size(partial))
            while (before := _size(partial)) < file.bytes:
                try:
                    self._append(file, partial, task)
                    reason = "the connection ended too early"
                except (OSError, HTTPException) as error:
                    self._raise_for_good(error, file, partial)
                    reason = _short(error)
                failures = 0 if _size(partial) > before else failures + 1
                if failures == ATTEMPTS:
                    raise self._given_up(file, partial, reason)
                time.sleep(failures)

    def _append(self, file: PackFile, partial: Path, task: Task) -> None:
        start = _size(partial)
        with self._open(file.name, start) as response, partial.open("ab") as there:
            skip = start if response.status == 200 else 0  # a server that knows no ranges begins at the start
            left = file.bytes - start
            while left and (chunk := response.read1(CHUNK)):
                fresh = chunk[skip:][:left]
                skip -= min(skip, len(chunk))
                there.write(fresh)
                left -= len(fresh)
                task.advance(len(fresh))

    def _raise_for_good(self, error: Exception, file: PackFile, partial: Path) -> None:
        """Raise where another try can't help: a full disk, a file that is not there or ends before its size."""
        if isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500:
            raise self._given_up(file, partial, _short(error)) from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES):
            raise unwritable(partial, error) from error

    def _given_up(self, file: PackFile, partial: Path, reason: str) -> Problem:
        return Problem(
            f"{self.address}{file.name}: {reason}; {_size(partial):,} of {file.bytes:,} bytes are here",
            "Run the same command again: it goes on where it was.",
        )

    def _open(self, name: str, start: int = 0) -> HTTPResponse:
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        request = urllib.request.Request(self.address + urllib.parse.quote(name), headers=headers)
        response: HTTPResponse = urllib.request.urlopen(request, timeout=SECONDS)
        return response


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _short(error: Exception) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]
