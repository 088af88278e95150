"""The model a student is cut from, when that is not the teacher.

In:  a path, a name of the catalogue or `owner/repository` on the Hub; the home where fetched models are kept.
Out: a checkpoint folder, or one that holds a configuration and a tokenizer alone; what either is known by.
Does not know: recipes, runs, how a student is cut.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.models.architecture import read_config
from potstill.models.identity import folder_hash, read_object
from potstill.models.teacher import converted_checkpoint, find_teacher, teacher_folder, teacher_identity
from potstill.problem import Problem
from potstill.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_FILLER = re.compile(r"\[PAD\d+\]")


def find_base(name_or_path: str, home: Path, progress: Progress) -> Path:
    """The folder of this base: config.json, tokenizer and, except in a local folder, certainly weights.

    A local folder is taken as it is: no GGUF is made of a model that writes nothing.

    Raises: Problem where there is no such model, no network, no space or a damaged file.
    """
    folder = _local_folder(name_or_path)
    return folder or find_teacher(name_or_path, home, progress).checkpoint


def base_identity(name_or_path: str, home: Path) -> str:
    """What the base counts by: the hash of what it holds, whatever name or path it was given by."""
    folder = _local_folder(name_or_path)
    return folder_hash(folder, home) if folder else teacher_identity(name_or_path, home)


def known_config(name_or_path: str, home: Path) -> PreTrainedConfig | None:
    """The configuration of a teacher or base that is here already; nothing is fetched. Raises as `read_config` does."""
    folder = known_folder(name_or_path, home)
    return read_config(folder) if folder else None


def known_folder(name_or_path: str, home: Path) -> Path | None:
    """The folder of a teacher or base that is here already; nothing is fetched."""
    path = Path(name_or_path).expanduser()
    kept = converted_checkpoint(path, home) if path.is_file() else teacher_folder(home, name_or_path) / "checkpoint"
    folder = _local_folder(name_or_path) or kept
    return folder if (folder / "config.json").is_file() else None


def same_tokens(one: Path, other: Path) -> bool:
    """Whether the tokenizers of two folders give every token the same id, but for what fills a GGUF's table up."""
    return bool(_numbered(one) == _numbered(other))


def _numbered(folder: Path) -> Any:
    described = read_object(folder / "tokenizer.json")
    if "model" not in described:
        raise Problem(f"{folder / 'tokenizer.json'} is missing or damaged", "Save the model's tokenizer beside it.")
    vocabulary, added = described["model"].get("vocab"), described["added_tokens"]
    if not isinstance(vocabulary, dict):  # of a kind that is always another than the teacher's
        return vocabulary, sorted(token["content"] for token in added)
    numbered = vocabulary | {token["content"]: token["id"] for token in added}
    return {token: index for token, index in numbered.items() if not _FILLER.fullmatch(token)}


def has_weights(folder: Path) -> bool:
    """Whether there is anything to cut from."""
    return any(folder.glob("*.safetensors"))


def _local_folder(name_or_path: str) -> Path | None:
    path = Path(name_or_path).expanduser()
    if not path.is_dir():
        return None
    if not (path / "config.json").is_file():
        raise Problem(f"{path} has no config.json", "Give the folder of a Transformers checkpoint, or a GGUF.")
    return path.resolve()
