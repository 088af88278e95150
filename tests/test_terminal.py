"""Progress for people: bars in a terminal, lines in a log, amounts that read well."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from potstill import terminal
from potstill.terminal import TerminalProgress, table


def plain() -> tuple[io.StringIO, TerminalProgress]:
    out = io.StringIO()
    return out, TerminalProgress(Console(file=out, width=120))


def test_a_log_gets_a_line_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    out, progress = plain()
    with progress.task("the teacher [reads]", 1000, "tokens") as task:
        for _ in range(10):
            now[0] += 4.0
            task.describe("loss 1.5")
            task.advance(100)
    lines = out.getvalue().splitlines()
    assert lines == [
        "  the teacher [reads]: 40 %, 25 tokens/s, 0:24 left loss 1.5",
        "  the teacher [reads]: 80 %, 25 tokens/s, 0:08 left loss 1.5",
    ]


def test_a_log_gets_a_line_without_a_total(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    out, progress = plain()
    with progress.task("joining", None, "B") as task:
        now[0] += 20.0
        task.advance(4e7)
    assert out.getvalue() == "  joining: 2.0M B/s\n"


def test_what_was_done_before_says_nothing_of_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    out, progress = plain()
    with progress.task("the student learns", 1.0, "share") as task:
        task.resume(0.8)
        now[0] += 20.0
        task.advance(0.1)
    assert out.getvalue() == "  the student learns: 90 %, 0:20 left\n"


def test_nor_does_it_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out, now = io.StringIO(), [0.0]
    shown = Console(file=out, force_terminal=True, force_interactive=True, width=120)
    monkeypatch.setattr(shown, "get_time", lambda: now[0])
    with TerminalProgress(shown).task("the teacher reads", 1000, "tokens") as task:
        task.resume(800)
        now[0] += 50.0
        task.advance(100)
    assert "2.00 tokens/s, 0:50 left" in out.getvalue()


def test_lines_are_said_as_they_are() -> None:
    out, progress = plain()
    progress.say("[vocab] [bold]10 %[/bold] of 3")
    assert out.getvalue() == "[vocab] [bold]10 %[/bold] of 3\n"


def test_a_terminal_of_another_encoding_gets_a_bar_too() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="gbk", write_through=True)
    console = Console(file=file, force_terminal=True, force_interactive=True, width=120)
    with TerminalProgress(console).task("读", 2, "layers") as task:
        task.advance()
    assert "读" in raw.getvalue().decode("gbk")


def test_a_terminal_gets_a_bar_with_a_rate() -> None:
    out = io.StringIO()
    progress = TerminalProgress(Console(file=out, force_terminal=True, force_interactive=True, width=120))
    with progress.task("[cut] and heal", 2, "layers") as task:
        task.describe("[layer 1]")
        task.advance()
    assert "[cut] and heal" in out.getvalue() and "[layer 1]" in out.getvalue()


@pytest.mark.parametrize(
    ("done", "total", "seconds", "unit", "said"),
    [
        (0, 100, 5.0, "answers", "starting"),
        (50, 100, 100.0, "answers", "0.50 answers/s, 1:40 left"),
        (5e6, 1e7, 1.0, "B", "5.0M B/s, 0:01 left"),
        (0.25, 1.0, 60.0, "share", "3:00 left"),
        (30, None, 2.0, "runs", "15 runs/s"),
        (200, 100, 1.0, "tokens", "200 tokens/s, 0:00 left"),
    ],
)
def test_the_pace(done: float, total: float | None, seconds: float, unit: str, said: str) -> None:
    assert terminal._pace(done, total, seconds, unit) == said


@pytest.mark.parametrize(
    ("value", "said"), [(0.5, "0.50"), (12.3, "12"), (9999, "9999"), (25_000, "25.0k"), (3.2e6, "3.2M"), (4e9, "4.0G")]
)
def test_amounts(value: float, said: str) -> None:
    assert terminal._amount(value) == said


def test_a_table_shows_every_cell_as_it_is() -> None:
    out = io.StringIO()
    rows = [["a", "1.5 [1.4–1.6] nats", "12"], ["[b]", "", "7 GB"]]
    made = table("Title", ["name", "value", "size"], rows)
    Console(file=out, width=100).print(made)
    assert all(text in out.getvalue() for text in ("Title", "1.5 [1.4–1.6] nats", "[b]", "7 GB"))
    assert [column.justify for column in made.columns] == ["left", "right", "right"]
