"""What a file or a checkpoint is known by: hashes of content, remembered so that they are computed once.

In:  files; a home whose `hashes.json` remembers hashes for as long as a file's size and time stay the same.
Out: SHA-256 in hexadecimal.
Does not know: what the files mean, where they came from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

SMALL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""What, beside the weights, changes what a checkpoint says."""


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def git_hash(file: Path) -> str:
    """The hash that git (and so the Hub) gives a small file of this content."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def file_hash(file: Path, home: Path | None) -> str:
    """SHA-256 of a file, out of `home`'s memory where size and time are still the same."""
    status = file.stat()
    stamp = [status.st_size, status.st_mtime_ns]
    book = home / "hashes.json" if home else None
    known = read_object(book) if book else {}
    entry = known.get(str(file.resolve()), {})
    if entry.get("stamp") == stamp:
        return str(entry["sha256"])
    digest = sha256_of(file)
    if book:
        with suppress(OSError):  # a home that can't be written to only costs time
            # os.path's, for pathlib's raises where another user's folder is closed.
            kept = {name: value for name, value in known.items() if os.path.exists(name)}
            write_object(book, {**kept, str(file.resolve()): {"stamp": stamp, "sha256": digest}})
    return digest


def folder_hash(folder: Path, home: Path | None) -> str:
    """One hash for all weights, the configuration and the tokenizer of a checkpoint folder."""
    files = [*folder.glob("*.safetensors"), *(folder / name for name in SMALL_FILES)]
    return combined_hash({file.name: file_hash(file, home) for file in files if file.is_file()})


def combined_hash(hashes: Mapping[str, str]) -> str:
    """One hash for several files, by name; the order they come in doesn't matter."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no readable one."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_object(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    partial.replace(file)
