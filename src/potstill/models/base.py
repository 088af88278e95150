"""The model a student is cut from, when that is not the teacher.

In:  a path, a name of the catalogue or `owner/repository` on the Hub; the home where fetched models are kept.
Out: a checkpoint folder, or one that holds a configuration and a tokenizer alone; what either is known by.
Does not know: recipes, runs, how a student is cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from potstill.models.identity import folder_hash
from potstill.models.teacher import converted_checkpoint, find_teacher, teacher_folder, teacher_identity
from potstill.problem import Problem
from potstill.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


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


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration in a base's folder. Raises: Problem where it is damaged or of a family not known here."""
    from transformers import AutoConfig

    from potstill.models.architecture import family_of

    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise Problem(f"{folder / 'config.json'} can't be read ({first_line})", "Save the model again.") from error
    family_of(config)
    return config


def known_config(name_or_path: str, home: Path) -> PreTrainedConfig | None:
    """The configuration of a teacher or base that is here already; nothing is fetched. Raises as `read_config` does."""
    path = Path(name_or_path).expanduser()
    kept = converted_checkpoint(path, home) if path.is_file() else teacher_folder(home, name_or_path) / "checkpoint"
    folder = _local_folder(name_or_path) or kept
    return read_config(folder) if (folder / "config.json").is_file() else None


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
