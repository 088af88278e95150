"""Files from a Hub: listed, streamed on where they stopped, verified.

In:  a small server on this machine that answers as the Hub does.
Out: the file, or a Problem, or Unavailable.
Does not know: the Hub itself.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.hf_api import ModelInfo

from potstill.models import download, hub
from potstill.models.catalogue import Entry, HubFile
from potstill.models.download import Unavailable
from potstill.models.hub import Listing, fetch_from_hub, fetch_repository, list_repository
from potstill.models.identity import git_hash
from potstill.problem import Problem
from potstill.progress import Silent

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ENTRY = Entry(
    name="small",
    title="Small",
    family="qwen2",
    licence="MIT",
    language_note="none",
    parameters=1,
    file="small.gguf",
    size=len(CONTENT),
    sha256=SHA256,
    hub=HubFile("someone/small", "small.gguf"),
    carriers=(),
)


class Hub(ThreadingHTTPServer):
    """Serves `files`; what it is asked for is in `requests` as (method, name, range)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {"small.gguf": CONTENT}
        self.requests: list[tuple[str, str, str | None]] = []
        self.tokens: list[str | None] = []
        self.knows_ranges = True
        self.breaks_after: int | None = None
        self.always_breaks = False
        self.portal = False
        """Whether somebody must log in first: every answer is a page that says so."""

    def url(self, _repository: str, name: str, **_: Any) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    @property
    def ranges(self) -> list[str | None]:
        return [wanted for method, _, wanted in self.requests if method == "GET"]


class Answer(BaseHTTPRequestHandler):
    """One request, answered as the Hub would."""

    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _answer(self, body: bool) -> None:
        name, wanted = self.path.strip("/"), self.headers.get("Range")
        self.server.requests.append((self.command, name, wanted))
        self.server.tokens.append(self.headers.get("Authorization"))
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        if self.server.portal:
            content, wanted = b"<html>Please log in</html>", None
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.knows_ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.server.portal:
            self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        if body:
            rest = content[start:]
            if self.server.breaks_after is not None:
                rest = rest[: self.server.breaks_after]
                self.server.breaks_after = 0 if self.server.always_breaks else None
            self.wfile.write(rest)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub()
    thread = threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", served.url)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(hub, "_offline", lambda: False)
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


def test_a_file_arrives_whole(server: Hub, tmp_path: Path) -> None:
    source = fetch_from_hub(ENTRY, tmp_path / "here.gguf", tmp_path, Silent())

    assert (tmp_path / "here.gguf").read_bytes() == CONTENT
    assert source == "Hugging Face Hub: someone/small"
    assert [path.name for path in tmp_path.iterdir()] == ["here.gguf"]


def test_a_download_goes_on_where_it_stopped(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "small.gguf.part").write_bytes(CONTENT[:1000])

    fetch_from_hub(ENTRY, tmp_path / "here.gguf", tmp_path, Silent())

    assert (tmp_path / "here.gguf").read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_a_mirror_without_ranges_is_read_from_the_start(server: Hub, tmp_path: Path) -> None:
    server.knows_ranges = False
    (tmp_path / "small.gguf.part").write_bytes(CONTENT[:1_100_000])

    fetch_from_hub(ENTRY, tmp_path / "here.gguf", tmp_path, Silent())

    assert (tmp_path / "here.gguf").read_bytes() == CONTENT


def test_a_broken_connection_is_taken_up_again(server: Hub, tmp_path: Path) -> None:
    server.breaks_after = 300_000

    fetch_from_hub(ENTRY, tmp_path / "here.gguf", tmp_path, Silent())

    assert (tmp_path / "here.gguf").read_bytes() == CONTENT
    assert len(server.ranges) == 2
    assert server.ranges[1] is not None


def test_a_connection_that_never_brings_anything_is_given_up(server: Hub, tmp_path: Path) -> None:
    server.always_breaks, server.breaks_after = True, 0

    with pytest.raises(Unavailable, match="the Hub"):
        fetch_from_hub(ENTRY, tmp_path / "here.gguf", tmp_path, Silent())
    assert len(server.ranges) == download.ATTEMPTS


def test_a_log_in_page_never_becomes_the_head_of_a_file(server: Hub, listing: Listing, tmp_path: Path) -> None:
    partial = tmp_path / "downloads" / "model.safetensors.part"
    partial.parent.mkdir()
    partial.write_bytes(CONTENT[:1000])
    server.portal = True
    with pytest.raises(Unavailable, match=r"the Hub \(.*\): a web page came"):
        fetch_repository(listing, tmp_path / "checkpoint", tmp_path / "downloads", Silent())
    assert partial.read_bytes() == CONTENT[:1000]
    assert len(server.ranges) == 1
    server.portal = False
    server.requests.clear()

    fetch_repository(listing, tmp_path / "checkpoint", tmp_path / "downloads", Silent())

    assert (tmp_path / "checkpoint" / "model.safetensors").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-"]


def test_the_token_is_sent_to_the_hub(
    server: Hub, listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")

    fetch_repository(listing, tmp_path / "checkpoint", tmp_path / "downloads", Silent())

    assert server.tokens == ["Bearer hf_secret"] * 2


def test_a_file_that_is_not_there_is_asked_for_once(server: Hub, listing: Listing, tmp_path: Path) -> None:
    del server.files["model.safetensors"]

    with pytest.raises(Unavailable, match="404"):
        fetch_repository(listing, tmp_path / "checkpoint", tmp_path / "downloads", Silent())
    assert len(server.ranges) == 2


def test_another_file_of_that_name_is_not_even_fetched(server: Hub, tmp_path: Path) -> None:
    server.files["small.gguf"] = CONTENT + b"!"

    with pytest.raises(Unavailable, match="another hash"):
        fetch_from_hub(ENTRY, tmp_path / "here.gguf", tmp_path, Silent())
    assert server.ranges == []


def test_a_damaged_part_is_noticed_and_removed(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "small.gguf.part").write_bytes(b"\1" * 1000)

    with pytest.raises(Problem, match=SHA256):
        fetch_from_hub(ENTRY, tmp_path / "here.gguf", tmp_path, Silent())
    assert list(tmp_path.iterdir()) == []


def test_the_users_own_hub_cache_is_used_if_it_is_whole(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "cached"
    cached.write_bytes(CONTENT)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(cached))

    fetch_from_hub(ENTRY, tmp_path / "here.gguf", tmp_path, Silent())
    assert (tmp_path / "here.gguf").read_bytes() == CONTENT
    assert server.requests == []

    cached.write_bytes(CONTENT[:-1])
    fetch_from_hub(ENTRY, tmp_path / "here.gguf", tmp_path, Silent())
    assert len(server.ranges) == 1


def test_no_hub_means_unavailable_and_offline_asks_nobody(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unavailable, match="not known"):
        fetch_from_hub(replace(ENTRY, hub=None), tmp_path / "x", tmp_path, Silent())
    monkeypatch.setattr(hub, "_offline", lambda: True)
    for ask in (
        lambda: fetch_from_hub(ENTRY, tmp_path / "x", tmp_path, Silent()),
        lambda: list_repository("a/b"),
    ):
        with pytest.raises(Unavailable, match="HF_HUB_OFFLINE"):
            ask()
    monkeypatch.setattr(hub, "_offline", lambda: False)
    server.shutdown()
    server.server_close()
    with pytest.raises(Unavailable, match="the Hub"):
        fetch_from_hub(ENTRY, tmp_path / "x", tmp_path, Silent())
    assert server.requests == []


def repository(monkeypatch: pytest.MonkeyPatch, files: dict[str, dict[str, Any]], **more: Any) -> None:
    siblings = [{"rfilename": name, "size": 10, "blobId": "b" * 40, **values} for name, values in files.items()]
    info = ModelInfo(id="someone/model", sha="d" * 40, siblings=siblings, tags=[], **more)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)


def large(sha256: str, size: int = 10) -> dict[str, Any]:
    return {"size": size, "lfs": {"size": size, "sha256": sha256, "pointerSize": 100}}


def test_only_what_makes_a_checkpoint_is_listed(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["config.json", "tokenizer.json", "chat_template.jinja", "README.md", "run.py", "onnx/model.json"]
    pickles = {"pytorch_model.bin": large("e" * 64), "tokenizer.pkl": {}}
    weights = {"model.safetensors": large("f" * 64), "consolidated.safetensors": large("a" * 64)}
    card = {"license": "apache-2.0"}
    repository(monkeypatch, {name: {} for name in names} | pickles | weights, cardData=card)

    listing = list_repository("someone/model")

    found = {file.name: file.algorithm for file in listing.files}
    assert found == {
        "config.json": "git",
        "tokenizer.json": "git",
        "chat_template.jinja": "git",
        "model.safetensors": "sha256",
    }
    assert listing.weights == {"model.safetensors": "f" * 64}
    assert (listing.revision, listing.licence, listing.size) == ("d" * 40, "apache-2.0", 40)


def test_a_repository_of_pickle_is_refused(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(monkeypatch, {"config.json": {}, "pytorch_model.bin": large("e" * 64)})

    with pytest.raises(Problem, match="pickle is never loaded"):
        list_repository("someone/model")


@pytest.fixture
def listing(server: Hub, tmp_path: Path) -> Listing:
    config = b'{"model_type": "qwen2"}'
    server.files = {"config.json": config, "model.safetensors": CONTENT}
    (tmp_path / "blob").write_bytes(config)
    small = hub.RemoteFile("config.json", len(config), git_hash(tmp_path / "blob"), "git")
    return Listing("a/b", "main", "mit", (small, hub.RemoteFile("model.safetensors", len(CONTENT), SHA256, "sha256")))


def test_a_repository_becomes_a_folder(server: Hub, listing: Listing, tmp_path: Path) -> None:
    fetch_repository(listing, tmp_path / "checkpoint", tmp_path / "downloads", Silent())

    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").iterdir()} == server.files
    assert not (tmp_path / "downloads").exists()


def test_a_wrong_file_stops_it_and_the_right_ones_are_kept(server: Hub, listing: Listing, tmp_path: Path) -> None:
    server.files["model.safetensors"] = CONTENT[::-1]
    with pytest.raises(Problem, match=r"model\.safetensors"):
        fetch_repository(listing, tmp_path / "checkpoint", tmp_path / "downloads", Silent())
    assert not (tmp_path / "checkpoint").exists()

    server.files["model.safetensors"] = CONTENT
    server.requests.clear()
    fetch_repository(listing, tmp_path / "checkpoint", tmp_path / "downloads", Silent())

    assert [name for _, name, _ in server.requests] == ["model.safetensors"]
    assert (tmp_path / "checkpoint" / "model.safetensors").read_bytes() == CONTENT
