"""Progress and tables for people in a terminal.

In:  what long work reports; rows.
Out: bars with rate and remaining time, lines, tables, on stderr or stdout.
Does not know: stages, models.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Task as RichTask
from rich.table import Table
from rich.text import Text

from potstill.progress import Task

PLAIN_SECONDS = 15.0
"""Without a terminal (a log file, CI) a bar becomes a line every so often."""


class _Rate(ProgressColumn):
    """`123 tokens/s, 0:42 left`, from the work finished so far."""

    def render(self, task: RichTask) -> Text:
        done, total = task.completed - task.fields["before"], task.total
        return Text(
            _pace(done, total and total - task.fields["before"], task.elapsed or 0.0, task.fields["unit"]), "cyan"
        )


def _pace(done: float, total: float | None, seconds: float, unit: str) -> str:
    """Rate and time left of what this process has done, and has to do."""
    if done <= 0 or seconds <= 0:
        return "starting"
    speed = done / seconds
    rate = "" if unit == "share" else f"{_amount(speed)} {unit}/s"
    if not total:
        return rate
    left = max(0.0, total - done) / speed
    return f"{rate}{', ' if rate else ''}{int(left // 60)}:{int(left % 60):02d} left"


def _amount(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):.1f}{letter}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


class _Bar:
    """A Rich bar as a `Task`."""

    def __init__(self, progress: Progress, task: TaskID, label: str) -> None:
        self.progress, self.task, self.label = progress, task, label

    def advance(self, amount: float = 1) -> None:
        self.progress.advance(self.task, amount)

    def resume(self, amount: float) -> None:
        self.progress.update(self.task, advance=amount, before=amount + self.progress.tasks[0].fields["before"])

    def describe(self, text: str) -> None:
        self.progress.update(self.task, description=f"{escape(self.label)} [dim]{escape(text)}[/dim]")


class _Lines:
    """A bar as a line now and then, for logs."""

    def __init__(self, console: Console, label: str, total: float | None, unit: str) -> None:
        self.console, self.label, self.total, self.unit = console, label, total, unit
        self.done, self.before, self.text, self.started = 0.0, 0.0, "", time.monotonic()
        self.shown = self.started

    def advance(self, amount: float = 1) -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.shown >= PLAIN_SECONDS:
            self.shown = now
            share = f"{100 * self.done / self.total:.0f} %, " if self.total else ""
            total = self.total and self.total - self.before
            pace = _pace(self.done - self.before, total, now - self.started, self.unit)
            # Not through Rich: it remembers the width of the last 4096 texts, and a soak looks for what is kept.
            self.console.file.write(f"  {self.label}: {share}{pace} {self.text}".rstrip() + "\n")
            self.console.file.flush()

    def resume(self, amount: float) -> None:
        self.before += amount
        self.done += amount

    def describe(self, text: str) -> None:
        self.text = text


class TerminalProgress:
    """`potstill.progress.Progress` on a Rich console."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def task(self, label: str, total: float | None, unit: str) -> Iterator[Task]:
        """A bar with rate and remaining time; lines where there is no terminal."""
        if not self.console.is_interactive:  # a file, or a terminal that cannot draw over what it has shown
            yield _Lines(self.console, label, total, unit)
            return
        spinner = SpinnerColumn("line" if self.console.options.ascii_only else "dots")
        columns = (spinner, TextColumn("{task.description}"), BarColumn(), _Rate(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            yield _Bar(progress, progress.add_task(escape(label), total=total, unit=unit, before=0.0), label)

    def say(self, line: str) -> None:
        """One line."""
        style = "bold" if line.startswith("[") else ""
        self.console.print(line, markup=False, highlight=False, style=style)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table; columns after the first are right-aligned where they hold numbers."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for place, name in enumerate(columns):
        numeric = place > 0 and all(_is_number(row[place]) for row in rows)
        made.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(cell) for cell in row))
    return made


def _is_number(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] in "–-±"
