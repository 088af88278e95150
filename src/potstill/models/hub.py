"""Model files from the Hugging Face Hub: listed, streamed, verified.

In:  a catalogue entry or the name of a repository; a folder to fetch into; progress.
Out: the entry's file, or a folder with a checkpoint, in place only when whole and verified.
Does not know: what the files mean; PyPI, recipes, runs, where a home is.

huggingface_hub (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE) says where files are and what they hash to; its own
downloader throws away what arrived before an interruption, so the bytes are streamed here, and a download
goes on where it was.
"""

from __future__ import annotations

import fnmatch
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial as bound
from pathlib import Path

from potstill.machine import folder_bytes, require_space
from potstill.models.catalogue import Entry, HubFile
from potstill.models.download import (
    READ_SECONDS,
    Answer,
    Unavailable,
    arrived,
    stream,
    unwritable,
    verify,
)
from potstill.models.identity import SMALL_FILES, combined_hash, sha256_of
from potstill.problem import Problem, in_one_line
from potstill.progress import Progress

HUB_SECONDS = 5.0
"""How long the Hub may take to answer at all before the next source is tried."""
WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer*", "vocab*", "merges.txt")
UNWANTED = ("consolidated*", "*.bin", "*.pt", "*.pth", "*.pkl", "*.py")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a Hub repository and what it must hash to."""

    name: str
    size: int
    digest: str
    algorithm: str
    """"sha256" (large files), or "git": the hash that git gives a small file."""


@dataclass(frozen=True)
class Listing:
    """The files of a Hub repository that make a checkpoint, at one revision."""

    repository: str
    revision: str
    licence: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def identity(self) -> str:
        """One hash for all weights and for what else changes what the checkpoint says, before any of it is fetched."""
        telling = {file.name: file.digest for file in self.files if file.name in SMALL_FILES}
        return combined_hash(self.weights | telling)

    @property
    def weights(self) -> dict[str, str]:
        """Name → SHA-256 of every file of weights."""
        return {file.name: file.digest for file in self.files if file.name.endswith(".safetensors")}


def fetch_from_hub(entry: Entry, target: Path, folder: Path, progress: Progress) -> str:
    """Stream the entry's file from the Hub (HF_ENDPOINT), going on where an earlier try ended."""
    place = entry.hub
    if place is None:
        raise Unavailable("the Hub is not known to have this file")
    source = f"Hugging Face Hub: {place.repository}"
    if cached := _cached_by_hub(place, entry.sha256):
        partial = folder / f"{entry.file}.copy"
        try:
            shutil.copyfile(cached, partial)
        except OSError as error:
            raise unwritable(partial, error) from error
    else:
        url = _promised_url(place, entry.sha256)
        partial = folder / f"{entry.file}.part"
        _stream(url, partial, entry.size, f"{entry.name} from the Hub", progress)
    verify(partial, entry.sha256, source)
    partial.replace(target)
    return source


def list_repository(repository: str) -> Listing:
    """The checkpoint files of a Hub repository as they are now.

    Raises: Unavailable where the Hub doesn't answer or doesn't know the repository; Problem where it has no
        safetensors.
    """
    from huggingface_hub import HfApi

    if _offline():
        raise Unavailable("the Hub is switched off by HF_HUB_OFFLINE")
    try:
        info = HfApi().model_info(repository, files_metadata=True, timeout=HUB_SECONDS)
    except Exception as error:  # whatever it is, the Hub can't give it
        raise Unavailable(f"{_endpoint()}: {in_one_line(error)}") from error
    files = []
    for sibling in info.siblings or ():
        name = sibling.rfilename
        if "/" in name or not _matches(name, WANTED) or _matches(name, UNWANTED):
            continue
        digest, algorithm = (sibling.lfs.sha256, "sha256") if sibling.lfs else (sibling.blob_id, "git")
        if sibling.size is None or digest is None:
            raise Unavailable(f"the Hub gives no hash for {name} of {repository}")
        files.append(RemoteFile(name, sibling.size, digest, algorithm))
    licence = getattr(info.card_data, "license", None) or "unknown"
    listing = Listing(repository, info.sha or "main", str(licence), tuple(files))
    if not listing.weights:
        raise Problem(
            f"{repository} on the Hub has no .safetensors, and pickle is never loaded",
            "Name a repository with safetensors, or download a GGUF yourself and give its path.",
        )
    return listing


def fetch_repository(listing: Listing, target: Path, folder: Path, progress: Progress) -> None:
    """Put all files of `listing` into the new folder `target`; what was fetched before is not fetched again.

    Raises: Unavailable where the connection is lost for good, Problem on a wrong hash or a full disk.
    """
    from huggingface_hub import hf_hub_url

    complete = folder / listing.revision
    begun = sum(arrived(folder / f"{one.name}.part") for one in listing.files)
    require_space(folder, listing.size - folder_bytes(complete) - begun, f"Fetching {listing.repository}")
    complete.mkdir(parents=True, exist_ok=True)
    for file in listing.files:
        if (complete / file.name).exists():
            continue
        partial = folder / f"{file.name}.part"
        url = hf_hub_url(listing.repository, file.name, revision=listing.revision)
        _stream(url, partial, file.size, f"{file.name} from the Hub", progress)
        verify(partial, file.digest, f"Hugging Face Hub: {listing.repository}", file.algorithm)
        partial.replace(complete / file.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    complete.replace(target)
    shutil.rmtree(folder, ignore_errors=True)


def _stream(url: str, partial: Path, size: int, label: str, progress: Progress) -> None:
    try:
        stream(bound(_connect, url), partial, size, label, progress)
    except Unavailable as error:
        raise Unavailable(f"{_endpoint()}: {error}") from error


@contextmanager
def _connect(url: str, headers: dict[str, str]) -> Iterator[Answer]:
    """Ask as huggingface_hub does: its proxies and certificates, the user's token."""
    from huggingface_hub import get_session, get_token

    if token := get_token():
        headers = headers | {"Authorization": f"Bearer {token}"}
    with get_session().stream("GET", url, headers=headers, timeout=READ_SECONDS) as response:
        stated = {key.lower(): value for key, value in response.headers.items()}
        yield Answer(response.status_code, stated, response.iter_bytes())


def _promised_url(place: HubFile, sha256: str) -> str:
    """Where the file is, once the Hub has said that it is there and has this hash."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    if _offline():
        raise Unavailable("the Hub is switched off by HF_HUB_OFFLINE")
    url = hf_hub_url(place.repository, place.file)
    try:
        promised = get_hf_file_metadata(url, timeout=HUB_SECONDS).etag
    except Exception as error:  # whatever it is, the Hub can't give it
        raise Unavailable(f"{_endpoint()}: {in_one_line(error)}") from error
    if promised != sha256 and re.fullmatch(r"[0-9a-f]{64}", promised or ""):  # some mirrors give none
        raise Unavailable(f"the Hub's {place.file} has another hash by now ({promised})")
    return url


def _cached_by_hub(place: HubFile, sha256: str) -> Path | None:
    """The same file in the user's own Hub cache, if it is whole."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(place.repository, place.file)
    if isinstance(cached, str) and sha256_of(Path(cached)) == sha256:
        return Path(cached)
    return None


def _endpoint() -> str:
    from huggingface_hub import constants

    return f"the Hub ({constants.ENDPOINT})"


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
