"""Files that outlive their machine, on any file system that fsspec reaches.

In:  a URL; files of a folder, and a name for what they are together.
Out: the same files in another folder, on another machine; or a word that they are damaged.
Does not know: what the files mean; which stage keeps what.

Each stage has a place of its own, named by its fingerprint, so that two recipes never mix:

    URL/signals-0123456789abcdef/data/SHA-256      one file, under the hash of what it holds
                                 notes/NAME.json   the files that make NAME: path → SHA-256 and bytes

A note is written after its files, and every object under another name before it is moved to its own: what can be seen
is whole. A file that is there already is not sent again, whichever note it was sent for.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from textwrap import shorten
from typing import Annotated, Any
from uuid import uuid4

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from potstill.problem import Problem
from potstill.progress import Progress, Task
from potstill.run import Run

WHOLE = "whole"
"""The name under which a finished stage is kept."""
KINDS = frozenset({".safetensors", ".gguf", ".json", ".jsonl", ".jinja", ".html", ".txt", ".md", ".png", ".svg"})
"""Suffixes of what may travel. Nothing among them is code, or a pickle that would run some."""
FETCHING = ".fetching"
"""Where files wait in a folder until all have come: what is there was killed, and a folder that has it is not whole."""


def _stays_inside(path: str) -> str:
    """The path, if it is below its folder in the spelling of any system, not hidden, and of a kind that travels."""
    place = PurePosixPath(path)
    if place.is_absolute() or any(part.startswith(".") for part in place.parts) or set(path) & set("\\:\0"):
        raise ValueError("is not a plain path below the folder")
    if place.suffix not in KINDS:
        raise ValueError(f"is of a kind that is not kept ({place.suffix})")
    return path


class Kept(BaseModel):
    """One file as it was kept: the hash of what it holds, and its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


Note = Annotated[dict[Annotated[str, AfterValidator(_stays_inside)], Kept], Field(min_length=1)]
"""Path of a file below its folder → the file; in the order in which they are put into place.

It comes from elsewhere and may say anything, so it is believed only as far as it fits this."""
_NOTE: TypeAdapter[dict[str, Kept]] = TypeAdapter(Note)


def storage_of(run: Run, stage: str) -> Storage | None:
    """Where the stage that is being built keeps its files; None where the recipe names no place."""
    url, fingerprint = run.recipe.storage.url, run.stamp(run.partial(stage))
    return Storage(url, f"{stage}-{fingerprint}", run.progress) if url and fingerprint else None


def files_of(folder: Path) -> list[Path]:
    """The files of a folder, except hidden ones; what lies deepest comes last."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    seen = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    return [folder / path for path in sorted(seen, key=lambda path: (len(path.parts), path))]


class Storage:
    """One place below a URL.

    Args:
        url: of a file system; its driver reads credentials from where it always does. place: a folder below it.
        progress: where fetching reports to.

    Raises: Problem, here and in every method, where the driver is missing or the file system cannot be used.
    """

    def __init__(self, url: str, place: str, progress: Progress) -> None:
        self.url, self.progress = url, progress
        with self._reaching():
            from fsspec.core import url_to_fs

            self._system, root = url_to_fs(url)
            self._root = f"{root.rstrip('/')}/{place}"

    def names(self) -> list[str]:
        """What is kept here, sorted."""
        with self._reaching():
            return sorted(PurePosixPath(path).stem for path in self._listed("notes") if path.endswith(".json"))

    def put(self, name: str, folder: Path, files: Iterable[Path]) -> None:
        """Keep files of a folder as `name`, all of them or none. They will be put into place in this order.

        Raises: ValueError for a file that may not travel.
        """
        note = _NOTE.validate_python({path.relative_to(folder).as_posix(): _kept(path) for path in files})
        for path, kept in note.items():
            self._put_file(folder / path, kept)
        text = _NOTE.dump_json(note, indent=1)
        with self._reaching():
            self._move_in(self._note_path(name), lambda temporary: self._system.pipe_file(temporary, text))

    def keep_whole(self, folder: Path) -> None:
        """Keep a finished stage; what was kept of it on the way is let go."""
        files = files_of(folder)
        if strange := [path for path in files if path.suffix not in KINDS]:
            self.progress.say(f"not kept in storage.url: {strange[0].name} is of a kind that does not travel")
            return
        self.put(WHOLE, folder, files)
        self.remove([name for name in self.names() if name != WHOLE])

    def fetch(self, names: Iterable[str], folder: Path) -> set[str]:
        """Bring what is kept under these names into a folder; what is not there or damaged is left out.

        The files of one name are put into place when all have come. What is damaged is told, and forgotten.

        Returns: the names that have come.
        """
        notes = {name: note for name in names if (note := self._note(name)) is not None}
        if not notes:
            return set()
        waiting, come = folder / FETCHING, set()
        total = sum(kept.size for note in notes.values() for kept in note.values())
        with self.progress.task("fetched from storage", total, "bytes") as task:
            for name, note in notes.items():
                if all(self._get_file(waiting / path, kept, task) for path, kept in note.items()):
                    _put_into_place(note, waiting, folder)
                    come.add(name)
                else:
                    self._forget_damaged(name)
        shutil.rmtree(waiting, ignore_errors=True)
        return come

    def remove(self, names: Iterable[str]) -> None:
        """Forget these names, and the files that no other name needs: those of a killed copy too."""
        with self._reaching():
            for name in names:
                self._delete(self._note_path(name))
        needed = {kept.sha256 for name in self.names() for kept in (self._note(name) or {}).values()}
        with self._reaching():
            for path in self._listed("data"):
                if PurePosixPath(path).name not in needed:
                    self._delete(path)

    def _listed(self, kind: str) -> list[str]:
        self._system.invalidate_cache()
        try:
            return [str(path) for path in self._system.ls(f"{self._root}/{kind}", detail=False)]
        except FileNotFoundError:
            return []

    def _note_path(self, name: str) -> str:
        return f"{self._root}/notes/{name}.json"

    def _data_path(self, kept: Kept) -> str:
        return f"{self._root}/data/{kept.sha256}"

    def _note(self, name: str) -> dict[str, Kept] | None:
        """What a note says; None where there is none. One that makes no sense is damaged."""
        with self._reaching():
            try:
                text = self._system.cat_file(self._note_path(name))
            except FileNotFoundError:
                return None
        try:
            return _NOTE.validate_json(text)
        except ValidationError:
            self._forget_damaged(name)
            return None

    def _forget_damaged(self, name: str) -> None:
        self.progress.say(f"{name} in {self.url} is damaged: it is not used, and made anew where it is needed")
        with self._reaching():
            self._delete(self._note_path(name))

    def _put_file(self, path: Path, kept: Kept) -> None:
        final = self._data_path(kept)
        with self._reaching():
            try:
                there = self._system.info(final)["size"] == kept.size
            except FileNotFoundError:
                there = False
            if not there:
                self._move_in(final, lambda temporary: self._system.put_file(str(path), temporary))

    def _get_file(self, path: Path, kept: Kept, task: Task) -> bool:
        """Bring one file, unless an earlier try has. False, and it is gone there, where it is not what was kept."""
        if not (path.exists() and _kept(path) == kept):
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._reaching():
                try:
                    self._system.get_file(self._data_path(kept), str(path))
                except FileNotFoundError:
                    return False
                if _kept(path) != kept:
                    self._delete(self._data_path(kept))
                    return False
        task.advance(kept.size)
        return True

    def _move_in(self, final: str, write: Callable[[str], Any]) -> None:
        temporary = f"{final}.{uuid4().hex}.part"  # two machines may send the same file
        self._system.makedirs(final.rpartition("/")[0], exist_ok=True)
        write(temporary)
        self._system.mv(temporary, final)

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._system.rm_file(path)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise Problem(
                f"storage.url = {self.url!r}: its driver is missing ({error})",
                'Install it with pip, or set storage.url = "".',
            ) from None
        except Exception as error:  # every driver has errors of its own library
            reason = shorten(f"{type(error).__name__}: {error}", 200)
            raise Problem(
                f"storage.url = {self.url!r} cannot be used ({reason})",
                "Check address, network and the driver's credentials. Run again: what is finished is kept.",
            ) from error


def _kept(path: Path) -> Kept:
    with path.open("rb") as file:
        return Kept(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=path.stat().st_size)


def _put_into_place(note: Iterable[str], waiting: Path, folder: Path) -> None:
    for path in note:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (waiting / path).replace(folder / path)
