"""A pack's files over the wire: what a network does that is not the server's doing.

In:  a small server on this machine; a log-in page in its place.
Out: the file, or a Problem that says where it stands.
Does not know: manifests, installed packs.
"""

from __future__ import annotations

import hashlib
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from finished_pack_run import WebFolders

from potstill.models import download
from potstill.pack.manifest import PackFile
from potstill.pack.source import WebFolder
from potstill.problem import Problem
from potstill.progress import Silent

CONTENT = bytes(range(256)) * 500
MODEL = PackFile(name="model.gguf", bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())


class LogIn(BaseHTTPRequestHandler):
    """What a hotel's network answers, whatever it is asked for."""

    server: WebFolders

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range")))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>Please log in</html>")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda _: None)


@pytest.fixture
def partial(web: WebFolders, tmp_path: Path) -> Path:
    """The first 1,000 bytes, from an earlier try."""
    (web.root / MODEL.name).write_bytes(CONTENT)
    (tmp_path / "arriving").write_bytes(CONTENT[:1000])
    return tmp_path / "arriving"


def test_a_log_in_page_never_becomes_the_head_of_a_file(web: WebFolders, partial: Path) -> None:
    usual, web.RequestHandlerClass = web.RequestHandlerClass, LogIn
    with pytest.raises(Problem, match=r"model\.gguf: a web page came .*; 1,000 of 128,000 bytes are here\. Run"):
        WebFolder(web.address).fetch(MODEL, partial, Silent())
    assert partial.read_bytes() == CONTENT[:1000]
    assert len(web.asked) == 1
    web.RequestHandlerClass = usual

    WebFolder(web.address).fetch(MODEL, partial, Silent())

    assert partial.read_bytes() == CONTENT
    assert [wanted for _, wanted in web.asked] == ["bytes=1000-"] * 2


def test_a_file_that_is_not_there_is_asked_for_once(web: WebFolders, partial: Path) -> None:
    (web.root / MODEL.name).unlink()

    with pytest.raises(Problem, match=r"HTTP Error 404: Not Found; 1,000 of 128,000 bytes are here\. Run"):
        WebFolder(web.address).fetch(MODEL, partial, Silent())
    assert len(web.asked) == 1


def test_another_file_of_that_name_is_not_fetched(web: WebFolders, partial: Path) -> None:
    (web.root / MODEL.name).write_bytes(CONTENT + b"more")

    with pytest.raises(Problem, match=r"128,004 bytes, not 128,000; 1,000 of"):
        WebFolder(web.address).fetch(MODEL, partial, Silent())
    assert partial.read_bytes() == CONTENT[:1000]


def test_nobody_there(web: WebFolders, partial: Path) -> None:
    web.server_close()

    with pytest.raises(Problem, match=r"refused.*; 1,000 of 128,000 bytes are here\. Run the same command again"):
        WebFolder(web.address).fetch(MODEL, partial, Silent())
