"""What a pack says of itself, read with distrust.

In:  the bytes of a `manifest.json`, from anywhere.
Out: a `Manifest` whose names are plain file names and whose own hash is right, or a Problem.
Does not know: where the bytes came from, networks, runs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from potstill.models.gguf_adapter import belongs
from potstill.models.identity import sha256_of
from potstill.problem import Problem

MANIFEST = "manifest.json"
FORMAT: Final = "potstill-pack"
FORMAT_VERSION: Final = 1
MOST_BYTES = 1 << 20
"""A manifest is a few kilobytes; more is not read."""
SELF = "manifest_sha256"
"""The manifest's own hash, over everything else in it."""
_RESERVED = re.compile(r"(?i)(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?")


def plain_name(name: str) -> str:
    """A file name that stays in its folder on every system. Raises: ValueError."""
    climbs = name in ("", ".", "..") or any(mark in name for mark in '/\\:*?"<>|') or Path(name).is_absolute()
    if climbs or not name.isprintable() or len(name.encode()) > 200:
        raise ValueError(f"{name!r} is not a plain file name")
    if name != name.strip(" .") or _RESERVED.fullmatch(name):
        raise ValueError(f"{name!r} is a file name that not every system takes")
    return name


PlainName = Annotated[str, Field(min_length=1), AfterValidator(plain_name)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Kind = Literal["base", "pro"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PackFile(_Part):
    """One file of the pack."""

    name: PlainName
    bytes: int = Field(ge=0)
    sha256: Sha256

    def matches(self, path: Path) -> bool:
        """Whether this very file lies there."""
        return path.stat().st_size == self.bytes and sha256_of(path) == self.sha256


class PackTeacher(_Part):
    """Whom the student learnt from."""

    name: str
    licence: str
    sha256: str


class PackRuntime(_Part):
    """What runs the model: a package on PyPI, and the size of its largest wheel for a common machine."""

    name: str
    version: str
    wheel_bytes: int
    wheels: dict[str, int]
    """Machine → bytes."""


class PackSize(_Part):
    """What a user fetches in all, held against the limit of the pack's kind. 1 MB is 10⁶ bytes."""

    files_bytes: int
    total_bytes: int
    """Files and wheel."""
    limit_mb: float
    within: bool


class Manifest(_Part):
    """The whole of it."""

    format: Literal["potstill-pack"]
    format_version: int
    name: PlainName
    kind: Kind
    version: PlainName
    model: PlainName
    quantisation: str
    adapter: PlainName | None = None
    """Switched on whenever the pack is used; it lies beside the model, under a name that says so (`gguf_adapter`)."""
    files: tuple[PackFile, ...] = Field(strict=False)
    teacher: PackTeacher
    fingerprint: str
    """Of the run's `export`."""
    made: dict[str, Any]
    """Recipe, stages, versions, machine."""
    runtime: PackRuntime
    size: PackSize

    @model_validator(mode="after")
    def _hangs_together(self) -> Manifest:
        listed = [file.name for file in self.files]
        names = [name.casefold() for name in listed]
        if len(set(names)) < len(names):
            raise ValueError("a file is listed twice")
        if MANIFEST in names:
            raise ValueError(f"{MANIFEST} lists itself")
        if self.model not in listed or not self.model.endswith(".gguf"):
            raise ValueError(f"the model {self.model!r} is not among the files, or no GGUF")
        adapter = self.adapter
        if adapter and (adapter not in listed or not belongs(Path(adapter), Path(self.model))):
            raise ValueError(f"the adapter {adapter!r} is not among the files, or not named after the model")
        plain_name(self.folder)
        return self

    @property
    def folder(self) -> str:
        """Name of the pack's folder."""
        return f"{self.name}-{self.kind}-{self.version}"

    @property
    def bytes(self) -> int:
        """Of all files together, as listed."""
        return sum(file.bytes for file in self.files)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` with its own hash into a pack's folder."""
    content = manifest.model_dump(mode="json")
    content[SELF] = own_hash(content)
    (folder / MANIFEST).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the pack in `folder`; its files are not looked at. Raises: Problem."""
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise Problem(f"{folder} is not a pack (no {MANIFEST})", "Make one with: potstill pack RUN --out DIR")
    with path.open("rb") as file:
        return parse_manifest(file.read(MOST_BYTES + 1), str(path))


def parse_manifest(content: bytes, place: str) -> Manifest:
    """A manifest from its bytes; `place` names it in the error. Raises: Problem."""
    if len(content) > MOST_BYTES:
        raise Problem(f"{place} is larger than any manifest", "Check the address.")
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise Problem(f"{place} is not JSON ({error})", "Check the address, or get the pack again.") from None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise Problem(f"{place} is not a pack's manifest", "Check the address.")
    if fields.get("format_version") != FORMAT_VERSION:
        raise Problem(
            f"{place} has the format version {fields.get('format_version')!r}; this potstill knows {FORMAT_VERSION}",
            "Update potstill.",
        )
    if fields.pop(SELF, None) != own_hash(fields):
        raise Problem(f"{place} is damaged: its own hash is wrong", "Get the pack again.")
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"])
        raise Problem(
            f"{place}: {where}: {first['msg'].removeprefix('Value error, ')}", "Don't use this pack."
        ) from None


def own_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's content without its own hash, however it is laid out."""
    rest = {key: value for key, value in content.items() if key != SELF}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
