"""Packs fetched, verified and put in place.

In:  a folder or an http(s) address that holds a pack; a home.
Out: `home/packs/<pack>`, there only when every file has the size and the hash that the manifest promises.
Does not know: what the files mean, what the model is run with.

The manifest comes first and is believed only so far: its names must be plain, its own hash right. What has arrived of
the files lies in `<pack>.partial`, and the same command goes on there. What an installed pack holds is copied.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from filelock import FileLock

from potstill.machine import require_space
from potstill.models.identity import sha256_of
from potstill.pack.find import is_pack, packs_folder
from potstill.pack.manifest import MANIFEST, Manifest, PackFile, parse_manifest
from potstill.pack.source import LocalFolder, Source, source_of
from potstill.problem import Problem
from potstill.progress import Progress

ARRIVING = ".arriving"
"""What has come of the first file that is not yet there; no listed name begins with a dot."""
LEFT_BY_SYSTEMS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""What macOS and Windows put into a folder that somebody has looked at; it is neither refused nor copied."""


def install(source: str | Path, home: Path, progress: Progress) -> Path:
    """Install a pack; returns its folder. One that is there already, whole, is left alone.

    Args:
        source: a pack's folder, or the http(s) address of one (or of its manifest).
        home: packs go into `home/packs/`.

    Raises: Problem where the pack can't be had, is damaged, or asks for anything but plain files of its own.
    """
    place = source_of(source)
    content = place.manifest()
    manifest = parse_manifest(content, f"{source}: {MANIFEST}")
    place.refuse_unlisted({file.name for file in manifest.files} | LEFT_BY_SYSTEMS)
    packs = packs_folder(home)
    packs.mkdir(parents=True, exist_ok=True)
    with FileLock(packs / ".lock"):
        final = packs / manifest.folder
        if _is_whole(final, manifest, content):
            progress.say(f"{manifest.folder} is installed already")
            return final
        partial = packs / f"{manifest.folder}.partial"
        _prepare(partial, content)
        require_space(packs, manifest.bytes, f"Installing {manifest.folder}")
        for file in manifest.files:
            _fetch(_at_hand(packs, file) or place, file, partial, progress)
        if final.exists():
            shutil.rmtree(final)
        partial.replace(final)
    progress.say(f"{manifest.folder}: {manifest.bytes / 1e6:.1f} MB, every file verified, in {final}")
    return final


def _at_hand(packs: Path, file: PackFile) -> Source | None:
    """The installed pack that holds this very file: a pro pack may have the model of a base pack."""
    for folder in sorted(packs.iterdir()):
        path = folder / file.name
        if not is_pack(folder) or path.is_symlink() or not path.is_file():
            continue
        if file.matches(path):
            return LocalFolder(folder)
    return None


def _prepare(partial: Path, content: bytes) -> None:
    """An empty folder for this manifest, or what an earlier try has left of the same one."""
    kept = partial / MANIFEST
    if partial.exists() and not (kept.is_file() and kept.read_bytes() == content):
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    kept.write_bytes(content)


def _fetch(place: Source, file: PackFile, folder: Path, progress: Progress) -> None:
    final, arriving = folder / file.name, folder / ARRIVING
    if final.is_file():
        return  # it was verified before it got its name
    if arriving.exists() and arriving.stat().st_size > file.bytes:
        arriving.unlink()
    arriving.touch()
    place.fetch(file, arriving, progress)
    found = sha256_of(arriving)
    if arriving.stat().st_size != file.bytes or found != file.sha256:
        arriving.unlink()
        raise Problem(
            f"{file.name} is not what the manifest promises: its hash is {found[:16]}…, not {file.sha256[:16]}…",
            "It has been removed. Run the command again; if that does not help, the pack is damaged.",
        )
    arriving.replace(final)


def _is_whole(folder: Path, manifest: Manifest, content: bytes) -> bool:
    """Whether this very pack lies here, every file with its size and hash, and nothing else that somebody put there."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    listed = {file.name: file for file in manifest.files}
    if {path.name for path in folder.iterdir()} - (LEFT_BY_SYSTEMS - listed.keys()) != {*listed, MANIFEST}:
        return False
    if (folder / MANIFEST).read_bytes() != content:
        return False
    paths = [(folder / name, file) for name, file in listed.items()]
    return all(file.matches(path) for path, file in paths)
