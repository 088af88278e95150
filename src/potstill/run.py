"""A run folder: where every stage leaves its work, and what is known about how it was made.

In:  a folder, a recipe, and fingerprints worked out by the conductor.
Out: paths, whole-or-absent stage folders, `manifest.json`.
Does not know: what the stages are, what they compute, the terminal.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from potstill.machine import forget_peak, peak_memory_mb, usable_cores
from potstill.problem import Problem
from potstill.progress import Progress, Silent
from potstill.recipe import Recipe, validate_recipe

DTYPE = "dtype.json"
"""In a stage's folder: the number format that its work began in."""
WORKED = ".worked"
"""In a partial folder: the stage's work is done, and only what comes after it is not."""
_MARKS = (".fingerprint", ".seconds", WORKED)
_TOLD = ("report.json", "log.jsonl")
"""Files of a stage that tell of its making, such as seconds, and differ though nothing else does."""
LIBRARIES = ("potstill", "torch", "transformers", "accelerate", "safetensors", "tokenizers", "xllamacpp", "gguf")


def default_home() -> Path:
    """POTSTILL_HOME, where teachers and packs lie; ~/.cache/potstill if it is not set.

    Raises: Problem where nobody knows what ~ is.
    """
    try:
        return Path(os.environ.get("POTSTILL_HOME") or "~/.cache/potstill").expanduser()
    except RuntimeError:
        raise Problem("there is no home folder to keep teachers in", "Set POTSTILL_HOME to a folder.") from None


def digest(value: object) -> str:
    """A short, stable hash of anything JSON can hold."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write JSON a person can read, whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def begun_dtype(folder: Path) -> str:
    """The number format that the work in `folder` began with: the probe may answer otherwise after a kill."""
    from potstill.machine import fastest_dtype

    note = folder / DTYPE
    if not note.exists():
        write_json(note, fastest_dtype())
    return str(read_json(note))


def read_json(path: Path) -> Any:
    """Read JSON that a stage wrote. Raises: Problem naming the file where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Problem(f"{path} is missing", "Run the stage that writes it again.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Problem(f"{path} is damaged ({error})", "Delete its folder and run again.") from None


@dataclass
class Run:
    """One run folder, with everything a stage needs to find its input and leave its output.

    Args:
        folder: the run folder; made if absent.
        recipe: what is asked for.
        home: where teachers lie.
        progress: where long work reports to.
        unsafe: programs that a model wrote may run without walls; said anew in every command, never kept.
    """

    folder: Path
    recipe: Recipe
    home: Path = field(default_factory=default_home)
    progress: Progress = field(default_factory=Silent)
    unsafe: bool = False

    def stage(self, name: str) -> Path:
        """Folder of a finished stage. Raises: Problem where it isn't there."""
        path = self.folder / name
        if not path.is_dir():
            raise Problem(f"{path} is missing: the stage `{name}` has not run", self.command(name))
        return path

    def command(self, verb: str) -> str:
        """What to type for this run."""
        return f"potstill {verb} {shlex.quote(str(self.folder))}"

    def partial(self, name: str) -> Path:
        """Folder a stage writes into until it is whole."""
        return self.folder / f"{name}.partial"

    def stamp(self, partial: Path) -> str:
        """Fingerprint of the stage that is being built in `partial`, for the headers of what it writes."""
        path = partial / ".fingerprint"
        return path.read_text() if path.exists() else ""

    def manifest(self) -> dict[str, Any]:
        """Stage name → fingerprint, content, inputs, versions, seconds, peak memory; empty for a new run."""
        path = self.folder / "manifest.json"
        content = read_json(path) if path.exists() else {"stages": {}}
        if not isinstance(content, dict) or not isinstance(content.get("stages"), dict):
            raise Problem(
                f"{path} lists no stages: it is damaged, or no run's",
                "Give another --run; or delete it, and every stage is done again.",
            )
        return dict(content["stages"])

    def fingerprint(self, name: str) -> str | None:
        """Fingerprint a finished stage was made with; None where there is none."""
        entry = self.manifest().get(name)
        return str(entry["fingerprint"]) if entry and (self.folder / name).is_dir() else None

    def keep_recipe(self) -> None:
        """Write the recipe, with every default spelled out, beside its result."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "recipe.json", self.recipe.model_dump(mode="json"))

    @contextmanager
    def building(self, name: str, fingerprint: str, reads: Sequence[str] = ()) -> Iterator[Path]:
        """Yield the partial folder of a stage; rename it and note it in the manifest when whole.

        A partial folder of the same fingerprint is kept, so that a killed stage goes on; any other is set aside.

        Args:
            reads: stages whose contents the manifest notes beside this one's.
        """
        partial = self.partial(name)
        for gone in self.folder.glob(".*.gone"):  # of a kill while it was removed, as below
            shutil.rmtree(gone)
        self._take_up(name, fingerprint)
        partial.mkdir(parents=True, exist_ok=True)
        for aside in self.folder.glob(".*.old"):  # of a kill while it was removed
            if (self.folder / aside.name[1 : -len(".old")]).exists():
                shutil.rmtree(aside)
        write_text(partial / ".fingerprint", fingerprint)
        started, before = time.monotonic(), _seconds_spent(partial)
        forget_peak()  # an earlier stage's is not this one's
        try:
            yield partial
        except BaseException:
            write_text(partial / ".seconds", str(before + time.monotonic() - started))
            raise
        self._finish(name, fingerprint, reads, before + time.monotonic() - started)

    def _take_up(self, name: str, fingerprint: str) -> None:
        """Find what was begun like this; the latest that was begun otherwise waits until this one is finished.

        It may be hours of work, and all that is different an option that was forgotten.
        """
        partial = self.partial(name)
        begun = self.stamp(partial)
        if partial.exists() and not begun:
            shutil.rmtree(partial)
        elif partial.exists() and begun != fingerprint:
            self._drop_aside(name, but=fingerprint)
            self.progress.say(f"[{name}] what was begun from other settings or input waits until this is finished")
            partial.replace(self._aside(name, begun))
        if (waiting := self._aside(name, fingerprint)).exists() and not partial.exists():
            waiting.replace(partial)
            self.progress.say(f"[{name}] what was set aside is taken up again")

    def _aside(self, name: str, fingerprint: str) -> Path:
        return self.folder / f".{name}.{fingerprint}.aside"

    def _drop_aside(self, name: str, but: str | None = None) -> None:
        for aside in self.folder.glob(f".{name}.*.aside"):
            if but is None or aside != self._aside(name, but):
                gone = aside.with_suffix(".gone")  # first, for half of it must not be taken up
                aside.replace(gone)
                shutil.rmtree(gone)

    def _finish(self, name: str, fingerprint: str, reads: Sequence[str], seconds: float) -> None:
        partial, final, aside = self.partial(name), self.folder / name, self.folder / f".{name}.old"
        stages = self.manifest()
        stages[name] = {
            "fingerprint": fingerprint,
            "content": content_of(partial),
            "inputs": {read: stages[read]["content"] for read in reads if "content" in stages.get(read, {})},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "peak_memory_mb": round(peak_memory_mb()),
            "versions": library_versions(),
            "machine": describe_machine(),
        }
        # Killed between any two of these, the stage is done or `partial` still has its stamp, and nothing is lost.
        if aside.exists():
            shutil.rmtree(aside)
        if final.exists():
            final.replace(aside)
        write_json(self.folder / "manifest.json", {"recipe": self.recipe.name, "stages": stages})
        partial.replace(final)
        for mark in _MARKS:
            (final / mark).unlink(missing_ok=True)
        if aside.exists():
            shutil.rmtree(aside)
        self._drop_aside(name)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the run folder, so that two processes never write into it at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            with lock:
                yield
        except Timeout:
            raise Problem(
                f"{self.folder} is in use by another potstill", "Wait for it, or give another --run."
            ) from None


def content_of(folder: Path) -> str:
    """A short hash of what a stage has made: the same where it was made anew and came out the same."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in _TOLD]
    return digest({path.relative_to(folder).as_posix(): _hash(path) for path in paths if path.name[0] != "."})


def _hash(path: Path) -> str:
    """SHA-256; of safetensors with the notes of its header in order, which are written in any."""
    with path.open("rb") as file:
        header = b""
        if path.suffix == ".safetensors":
            header = file.read(min(int.from_bytes(file.read(8), "little"), path.stat().st_size))
            with suppress(ValueError):
                header = json.dumps(json.loads(header), sort_keys=True).encode()
        return hashlib.sha256(header + hashlib.file_digest(file, "sha256").digest()).hexdigest()


def open_run(folder: Path, home: Path | None = None, progress: Progress | None = None) -> Run:
    """Open the run that lies in `folder`. Raises: Problem where there is none."""
    path = folder / "recipe.json"
    if not path.exists():
        raise Problem(f"{folder} is not a run folder (no recipe.json)", "Start one with: potstill run RECIPE --run DIR")
    content = read_json(path)
    try:
        recipe = validate_recipe(content, str(path))
    except Problem as problem:
        raise Problem(
            f"{problem.what}\n(a potstill wrote this file: another version, unless somebody has edited it)",
            f"Use that version; or potstill run RECIPE --run {shlex.quote(str(folder))}. Its GGUFs are in its export/.",
        ) from None
    return Run(folder, recipe, home or default_home(), progress or Silent())


def describe_machine() -> str:
    """`x86_64, 2 cores, Linux, Python 3.11.7`."""
    return f"{platform.machine()}, {usable_cores()} cores, {platform.system()}, Python {platform.python_version()}"


def library_versions() -> Mapping[str, str]:
    """Versions of the libraries that shape an artefact, as installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _seconds_spent(partial: Path) -> float:
    path = partial / ".seconds"
    return float(path.read_text()) if path.exists() else 0.0
