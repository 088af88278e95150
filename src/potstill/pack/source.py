"""Where a pack comes from: a folder here, or a folder behind an http(s) address.

In:  a path or an address; a file's name and size.
Out: the manifest's bytes; files appended to where an earlier try stopped.
Does not know: what a manifest means, whether a file is the right one: whoever asks checks its hash.
"""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial as bound
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Protocol

from potstill.models.download import CHUNK, READ_SECONDS, Answer, Unavailable, arrived, stream, unwritable
from potstill.pack.manifest import MANIFEST, MOST_BYTES, PackFile
from potstill.problem import Problem, in_one_line
from potstill.progress import Progress


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
            with self._open(MANIFEST, {"Accept-Encoding": "identity"}) as response:
                content: bytes = response.read(MOST_BYTES + 1)
        except (OSError, HTTPException, ValueError) as error:
            raise Problem(
                f"{self.address}{MANIFEST} can't be had ({in_one_line(error)})", "Check address and network."
            ) from None
        return content

    def refuse_unlisted(self, names: set[str]) -> None:
        """An address can't be listed, and nothing but what is listed is fetched from it."""

    def fetch(self, file: PackFile, partial: Path, progress: Progress) -> None:
        """See `Source`."""
        try:
            stream(bound(self._connect, file.name), partial, file.bytes, file.name, progress)
        except Unavailable as error:
            raise Problem(
                f"{self.address}{file.name}: {error}; {arrived(partial):,} of {file.bytes:,} bytes are here",
                "Run the same command again: it goes on where it was.",
            ) from error

    @contextmanager
    def _connect(self, name: str, headers: dict[str, str]) -> Iterator[Answer]:
        try:
            opened = self._open(name, headers)
        except urllib.error.HTTPError as error:
            error.close()
            yield Answer(error.code, {}, ())
            return
        with opened as response:
            stated = {key.lower(): value for key, value in response.headers.items()}
            yield Answer(response.status, stated, iter(bound(response.read1, CHUNK), b""))

    def _open(self, name: str, headers: dict[str, str]) -> HTTPResponse:
        request = urllib.request.Request(self.address + urllib.parse.quote(name), headers=headers)
        response: HTTPResponse = urllib.request.urlopen(request, timeout=READ_SECONDS)
        return response
