"""From a pack to the model in it.

In:  a folder, or the name of an installed pack.
Out: the path of a GGUF whose hash is the manifest's; that of the adapter where the pack has one (see `gguf_adapter`).
Does not know: how a pack came here, what its model is run with.
"""

from __future__ import annotations

from pathlib import Path

from potstill.models.identity import file_hash
from potstill.pack.manifest import FORMAT, MANIFEST, Manifest, read_manifest
from potstill.problem import Problem
from potstill.run import default_home, read_json


def packs_folder(home: Path) -> Path:
    """Where packs are installed."""
    return home / "packs"


def is_pack(folder: Path) -> bool:
    """Whether this folder says that it is a pack (a run has a `manifest.json`, too)."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        content = read_json(folder / MANIFEST)
    except Problem:
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def find_pack_model(place: Path, home: Path | None = None) -> Path | None:
    """What to open of a pack (a folder, or the name of an installed one): its GGUF, or its adapter, which brings that.

    Hashes are checked; for as long as size and time of a file stay the same they are not computed again.

    Args:
        home: where packs are installed; `default_home()` if not given.

    Returns: None where it is no pack.
    Raises: Problem where it is a pack, but a damaged one.
    """
    home = home or default_home()
    installed = packs_folder(home) / place
    folder = next((one for one in (place, installed) if is_pack(one)), None)
    if folder is None:
        return None
    manifest = read_manifest(folder)
    for name in (manifest.model, manifest.adapter):
        if name is not None:
            _verify(folder / name, manifest, home)
    return folder / (manifest.adapter or manifest.model)


def _verify(path: Path, manifest: Manifest, home: Path) -> None:
    if path.is_symlink() or not path.is_file():
        raise Problem(f"{path} is missing", "Install the pack again.")
    if file_hash(path, home) != next(file.sha256 for file in manifest.files if file.name == path.name):
        raise Problem(f"{path} is damaged: its hash is not the manifest's", "Install the pack again.")
