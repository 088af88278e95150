"""One file over a connection that breaks, stalls, or leads to something else.

In:  a server's answers, one a connection, made here.
Out: the file, Unavailable, or a Problem; what was asked for, and how far progress came.
Does not know: HTTP libraries, sockets, hashes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from potstill.models import download
from potstill.models.download import Answer, Unavailable, stream
from potstill.problem import Problem
from potstill.progress import Silent

CONTENT = bytes(range(256)) * 40
SIZE = len(CONTENT)
PAGE = b"<html>Please log in</html>"


class Bar(Silent):
    """Progress that adds up what it is told."""

    done = 0.0

    @contextmanager
    def task(self, label: str, total: float | None, unit: str) -> Iterator[Bar]:
        yield self

    def advance(self, amount: float = 1) -> None:
        self.done += amount

    def resume(self, amount: float) -> None:
        self.advance(amount)

    def describe(self, text: str) -> None:
        """Not looked at."""


class Server:
    """Gives `answers` in their order, the last one again and again; `asked` holds the ranges."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[str | None] = []
        self.open = 0
        self.read = 0

    @contextmanager
    def connect(self, headers: dict[str, str]) -> Iterator[Answer]:
        assert headers["Accept-Encoding"] == "identity"
        self.asked.append(headers.get("Range"))
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self.open += 1
        try:
            yield Answer(answer.status, answer.headers, self._counted(answer.chunks))
        finally:
            self.open -= 1

    def _counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.read += len(chunk)
            yield chunk


class Body:
    """Some bytes in small chunks, each time anew; then the connection breaks, or ends."""

    def __init__(self, content: bytes, breaks: BaseException | None = None) -> None:
        self.content, self.breaks = content, breaks

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self.content), 700):
            yield self.content[start : start + 700]
        if self.breaks:
            raise self.breaks


def whole(body: Body | None = None, **headers: str) -> Answer:
    return Answer(200, headers, body or Body(CONTENT))


def rest(start: int, begins: int | None = None, total: str = str(SIZE), content: bytes = CONTENT) -> Answer:
    stated = f"bytes {start if begins is None else begins}-{SIZE - 1}/{total}"
    return Answer(206, {"content-range": stated}, Body(content[start:]))


def page(body: bytes = PAGE, status: int = 200, **headers: str) -> Answer:
    return Answer(status, {"content-type": "text/html; charset=utf-8"} | headers, Body(body))


def sized(length: int) -> dict[str, str]:
    return {"content-length": str(length)}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited, in their order."""
    waited: list[float] = []
    monkeypatch.setattr(download.time, "sleep", waited.append)
    return waited


@pytest.fixture
def partial(tmp_path: Path, waits: list[float]) -> Path:
    """The first 1,000 bytes, from an earlier try."""
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    return tmp_path / "file.part"


def fetch(server: Server, partial: Path) -> Bar:
    bar = Bar()
    try:
        stream(server.connect, partial, SIZE, "file", bar)
    finally:
        assert server.open == 0
    return bar


@pytest.mark.parametrize("portal", [page(), page(PAGE * 500), page(CONTENT, **sized(SIZE))])
def test_a_log_in_page_first_then_the_rest_of_the_file(portal: Answer, partial: Path) -> None:
    server = Server(portal)
    with pytest.raises(Unavailable, match="a web page came instead of the file"):
        fetch(server, partial)
    assert partial.read_bytes() == CONTENT[:1000]
    assert (len(server.asked), server.read) == (1, 0)

    server = Server(rest(1000))
    bar = fetch(server, partial)

    assert partial.read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]
    assert server.read == SIZE - 1000  # nothing twice
    assert bar.done == SIZE


ANOTHER = [
    (whole(Body(b"{}"), **sized(2)), "the file there has 2 bytes, not 10,240"),
    (whole(Body(CONTENT + b"!"), **sized(SIZE + 1)), "the file there has 10,241 bytes"),
    (rest(1000, begins=0), r"from 1,000 on, the server sent 'bytes 0-10239/10240'"),
    (rest(1000, begins=1001), "from 1,000 on"),
    (rest(1000, total=str(SIZE + 1)), "the file there has 10,241 bytes"),
    (Answer(206, {}, Body(CONTENT)), "the server sent 'nothing'"),
    (Answer(206, {"content-range": "pages 1000-2000/3"}, Body(CONTENT)), "the server sent 'pages"),
    (page(CONTENT[1000:], 206, **{"content-range": "bytes 1000-10239/10240"}), "a web page came"),
]


@pytest.mark.parametrize(("answer", "reason"), ANOTHER, ids=[reason for _, reason in ANOTHER])
def test_what_states_that_it_is_something_else_is_not_written(answer: Answer, reason: str, partial: Path) -> None:
    server = Server(answer)

    with pytest.raises(Unavailable, match=reason):
        fetch(server, partial)

    assert partial.read_bytes() == CONTENT[:1000]
    assert (len(server.asked), server.read) == (1, 0)


def test_what_is_refused_at_the_start_leaves_no_file(tmp_path: Path) -> None:
    for answer in (page(), whole(**sized(5)), rest(0, begins=7)):
        with pytest.raises(Unavailable):
            fetch(Server(answer), tmp_path / "new.part")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", [
    rest(1000),
    rest(1000, total="*"),
    whole(**sized(SIZE)),
    whole(),
    whole(**{"content-length": "7", "transfer-encoding": "chunked"}),
    whole(**{"content-type": "application/octet-stream"}, **sized(SIZE)),
])  # fmt: skip
def test_what_states_the_file_or_nothing_is_taken(answer: Answer, partial: Path) -> None:
    bar = fetch(Server(answer), partial)

    assert partial.read_bytes() == CONTENT
    assert bar.done == SIZE


@pytest.mark.parametrize("answer", [whole(Body(CONTENT * 3)), rest(1000, total="*", content=CONTENT * 3)])
def test_a_body_longer_than_the_file_is_cut(answer: Answer, partial: Path) -> None:
    server = Server(answer)

    bar = fetch(server, partial)

    assert partial.read_bytes() == CONTENT
    assert server.read < SIZE + 700  # and the connection is left
    assert bar.done == SIZE


def test_a_part_longer_than_the_file_is_begun_anew(partial: Path) -> None:
    partial.write_bytes(b"\1" * (SIZE + 1))
    server = Server(whole(**sized(SIZE)))

    assert fetch(server, partial).done == SIZE
    assert partial.read_bytes() == CONTENT
    assert server.asked == [None]


def test_a_whole_part_asks_nobody(partial: Path) -> None:
    partial.write_bytes(CONTENT)
    server = Server(ConnectionError("nobody should ask"))

    assert fetch(server, partial).done == SIZE
    assert server.asked == []


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    stream(Server(ConnectionError("nobody should ask")).connect, tmp_path / "empty.part", 0, "file", Silent())

    assert (tmp_path / "empty.part").read_bytes() == b""


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 451])
def test_a_refusal_for_good_is_not_asked_again(status: int, partial: Path, waits: list[float]) -> None:
    server = Server(page(status=status))

    with pytest.raises(Unavailable, match=f"HTTP Error {status}: [A-Z]"):
        fetch(server, partial)

    assert (server.asked, waits) == (["bytes=1000-"], [])
    assert partial.read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("status", [202, 408, 425, 429, 500, 502, 503, 599])
def test_a_refusal_that_passes_is_asked_again_a_few_times(status: int, partial: Path, waits: list[float]) -> None:
    server = Server(page(status=status))
    with pytest.raises(Unavailable, match=f"HTTP Error {status}: "):
        fetch(server, partial)
    assert (len(server.asked), waits) == (download.ATTEMPTS, [1, 2, 3])
    assert partial.read_bytes() == CONTENT[:1000]

    fetch(Server(page(status=status), page(status=status), rest(1000)), partial)
    assert partial.read_bytes() == CONTENT


def test_every_byte_that_comes_gives_new_patience(partial: Path) -> None:
    """Twelve failures, but never four in a row without a byte."""
    broken, nobody = TimeoutError("timed out"), ConnectionError("refused")
    brought = [Answer(206, rest(at).headers, Body(CONTENT[at : at + 1], broken)) for at in (1000, 1001, 1002)]
    answers = [one for some in brought for one in (nobody, nobody, nobody, some)]
    server = Server(*answers, rest(1003))

    bar = fetch(server, partial)

    assert partial.read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=1003-"
    assert bar.done == SIZE


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (OSError("no route\nand more"), "no route$"),
        (RuntimeError(""), "^RuntimeError$"),
        (Answer(206, rest(1000).headers, Body(b"", ValueError("bad chunk"))), "bad chunk"),
        (Answer(206, rest(1000).headers, Body(b"")), "the connection ended too early"),
        (whole(Body(CONTENT[:1000])), "the connection ended too early"),
    ],
)
def test_a_connection_that_never_brings_anything_is_given_up(
    answer: Answer | Exception, reason: str, partial: Path
) -> None:
    server = Server(answer)

    with pytest.raises(Unavailable, match=reason):
        fetch(server, partial)

    assert server.asked == ["bytes=1000-"] * download.ATTEMPTS
    assert partial.read_bytes() == CONTENT[:1000]


def test_a_disk_that_refuses_ends_it_at_once(tmp_path: Path) -> None:
    server = Server(whole())

    with pytest.raises(Problem, match=r"file\.part can't be written \(No such file"):
        fetch(server, tmp_path / "nowhere" / "file.part")
    assert len(server.asked) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full is Linux's")
def test_a_full_disk_ends_it_at_once(tmp_path: Path) -> None:
    (tmp_path / "file.part").symlink_to("/dev/full")
    server = Server(whole())

    with pytest.raises(Problem, match=r"file\.part can't be written \(No space left"):
        fetch(server, tmp_path / "file.part")
    assert len(server.asked) == 1


def test_an_interruption_keeps_what_has_come(partial: Path) -> None:
    server = Server(Answer(206, rest(1000).headers, Body(CONTENT[1000:3000], KeyboardInterrupt())))

    with pytest.raises(KeyboardInterrupt):
        fetch(server, partial)

    assert partial.read_bytes() == CONTENT[:3000]
