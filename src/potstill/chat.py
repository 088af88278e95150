"""Talking to a model in the terminal.

In:  a run folder or a GGUF; lines typed.
Out: streamed answers on stdout.
Does not know: stages, training; nothing is kept between conversations.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from potstill.machine import usable_cores
from potstill.models.gguf_adapter import named_adapters, parts_of
from potstill.problem import Problem
from potstill.recipe import AnswersSection, EvaluateSection

if TYPE_CHECKING:
    from potstill.models.engine import Engine, Sampling, Threads
    from potstill.punctuation.stream import Stream

Marks = Literal["full", "half", "keep"]
"""Punctuation of Chinese text in what is shown: made full-width, made half-width, or left as the model writes it."""
HELP = "/reset forgets the conversation · /model NAME switches ({names}) · /quit leaves · Ctrl-C stops an answer"


@dataclass
class Conversation:
    """One conversation with one model at a time, within a bounded context.

    Args:
        models: name → what finds its GGUF. open_engine: loads one. sampling: how it answers. marks: of what is shown;
        the model is told what it said itself.
    """

    models: Mapping[str, Callable[[], Path]]
    open_engine: Callable[[Path], Engine]
    sampling: Sampling
    current: str
    marks: Marks = "keep"
    engine: Engine | None = None
    messages: list[dict[str, str]] = field(default_factory=list)

    def switch(self, name: str) -> None:
        """Use another model; the one before gives its memory back. Raises: Problem where there is none of that name."""
        if name not in self.models:
            raise Problem(f"there is no model {name!r} here", f"Choose one of: {', '.join(self.models)}.")
        gguf = self.models[name]()
        self.close()
        self.engine, self.current, self.messages = self.open_engine(gguf), name, []

    def ask(self, question: str, write: Callable[[str], None]) -> int:
        """Stream an answer. Returns: oldest turns dropped so that the rest fits the context.

        Raises: Problem where the question alone does not fit; the conversation stays as it was.
        """
        if self.engine is None:
            self.switch(self.current)
        assert self.engine is not None
        asked = [*self.messages, {"role": "user", "content": question}]
        dropped = self._make_room(asked)
        answer = self.engine.stream(asked, self.sampling)
        pieces: list[str] = []
        shown = filter_of(self.marks)
        try:
            for piece in answer:
                pieces.append(piece)
                write(shown.feed(piece) if shown else piece)
        finally:
            if shown:
                write(shown.close())
            # An answer that was stopped still belongs to the conversation.
            self.messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]
        return dropped

    def _make_room(self, asked: list[dict[str, str]]) -> int:
        """Drop the oldest turns while less than a quarter of the context is left for the answer."""
        assert self.engine is not None
        room = self.engine.context - self.engine.context // 4
        dropped = 0
        while len(asked) > 2 and self.engine.count_tokens(asked) > room:
            del asked[:2]
            dropped += 1
        return dropped

    def close(self) -> None:
        """Give the memory back."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None


def filter_of(marks: Marks) -> Stream | None:
    """What a text goes through before it is shown; None where it is left alone."""
    if marks == "keep":
        return None
    from potstill.punctuation import FullWidth, HalfWidth

    return FullWidth() if marks == "full" else HalfWidth()


def usual_marks(place: Path) -> Marks:
    """What is shown where nobody chose: full-width marks for a pack, elsewhere what the model writes."""
    from potstill.pack import find_pack_model

    return "full" if not place.is_file() and find_pack_model(place) is not None else "keep"


def talk(
    place: Path, once: str | None, threads: int | None, marks: Marks | None = None, adapter: str | None = None
) -> None:
    """Chat until /quit, or ask one question and leave.

    Args:
        marks: None: full-width for a pack, as the model writes them elsewhere. adapter: to be switched on at first.

    Raises: Problem for a place without models.
    """
    from potstill.answers.settings import sampling_for
    from potstill.models.engine import Engine

    answers, evaluate = AnswersSection.model_validate({}), EvaluateSection.model_validate({})
    models = find_models(place, adapter)
    sampling = sampling_for(answers, seed=0)

    def open_engine(gguf: Path) -> Engine:
        return Engine(gguf, context=evaluate.context, slots=1, threads=_threads(gguf, threads, quick=once is not None))

    conversation = Conversation(models, open_engine, sampling, next(iter(models)), marks or usual_marks(place))
    try:
        if once is not None:
            conversation.ask(whole_characters(once), _write)
            _write("\n")
        else:
            _loop(conversation)
    finally:
        conversation.close()


def find_models(place: Path, adapter: str | None = None) -> dict[str, Callable[[], Path]]:
    """Models to talk to: a GGUF or a pack's; or a run's shipped student first, its other types, and the teacher.

    An adapter beside a model makes it another one, `MODEL-ADAPTER`, loaded when that is asked for.

    Args:
        adapter: the model that has it switched on comes first; None: as a pack's manifest says, else none.

    Raises: Problem where nothing is exported yet, or nothing has that adapter.
    """
    found = _models_at(place)
    if adapter is None:
        return found
    first = next(
        (name for name in found if name.endswith(f"-{adapter}") and name.removesuffix(f"-{adapter}") in found), None
    )
    if first is None:
        raise Problem(f"{place} has no adapter {adapter!r}", f"It has the models {', '.join(found)}.")
    return {first: found[first], **found}


def _models_at(place: Path) -> dict[str, Callable[[], Path]]:
    """The teacher is looked for when it is asked for: it may have to be fetched, or be out of reach."""
    from potstill.pack import find_pack_model

    opened = place if place.is_file() else find_pack_model(place)
    if opened is not None:
        model = parts_of(opened).model
        beside = with_adapters({model.stem: model})
        first = next(name for name, path in beside.items() if path == opened)
        return {name: partial(Path, beside[name]) for name in dict.fromkeys((first, *beside))}
    from potstill.export import gguf_path
    from potstill.models.teacher import find_teacher
    from potstill.run import open_run

    if not (place / "recipe.json").exists():
        raise _nothing_at(place)
    run = open_run(place)
    types = [run.recipe.export.ship, *(kind for kind in run.recipe.export.types if kind != run.recipe.export.ship)]
    files = {"student" if kind == types[0] else f"student-{kind}": gguf_path(run, kind) for kind in types}
    found: dict[str, Callable[[], Path]] = {name: partial(Path, path) for name, path in with_adapters(files).items()}
    return found | {"teacher": lambda: find_teacher(run.recipe.teacher.model, run.home, run.progress).gguf}


def _nothing_at(place: Path) -> Problem:
    from potstill.pack import is_pack
    from potstill.pack.find import packs_folder
    from potstill.run import default_home

    folders = sorted(packs_folder(default_home()).glob("*"))
    installed = [one.name for one in folders if is_pack(one) and one.suffix != ".partial"]
    remedy = f"Installed packs: {', '.join(installed)}." if installed else "Install a pack with: potstill install PACK"
    return Problem(f"{place} is neither a run folder, a pack (folder or installed name) nor a GGUF", remedy)


def with_adapters(models: Mapping[str, Path]) -> dict[str, Path]:
    """The same models, and each with every adapter beside it."""
    adapted = {f"{name}-{one}": path for name, gguf in models.items() for one, path in named_adapters(gguf).items()}
    return {**models, **adapted}


def _threads(gguf: Path, wanted: int | None, quick: bool) -> Threads:
    from potstill.models.engine import Threads, default_threads
    from potstill.models.speed import choose_threads

    cores = usable_cores()
    if wanted is not None:
        return Threads(decode=wanted, prefill=cores, waiting="PASSIVE")
    return default_threads(cores) if quick else choose_threads(gguf, cores)


def whole_characters(text: str) -> str:
    """The text without halves of characters, which Python keeps as surrogates and no encoding can write."""
    return text.encode("utf-8", errors="ignore").decode("utf-8")


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


def _loop(conversation: Conversation) -> None:
    console = Console()
    console.print(
        f"[bold]{conversation.current}[/bold]  {HELP.format(names=', '.join(conversation.models))}", style="dim"
    )
    # Without it a terminal hands on 4,095 bytes of a line (macOS: 1,024), and every line of a paste for itself.
    with suppress(ImportError):
        import readline  # noqa: F401
    sign = "> " if console.options.ascii_only else "› "
    while True:
        try:
            line = input(sign).strip()  # readline has to know what stands before the line
        except UnicodeDecodeError:  # half of a character was deleted, where the terminal counts bytes
            console.print("(that line is not text)", style="dim")
            if not sys.stdin.isatty():  # it would be read for ever
                return
            continue
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if line == "/quit":
            return
        try:
            if line := whole_characters(line):
                _answer(conversation, console, line)
        except Problem as problem:
            console.print(f"{problem}", style="red", markup=False)
        except KeyboardInterrupt:
            console.print("\n(stopped)", style="dim")


def _answer(conversation: Conversation, console: Console, line: str) -> None:
    word, _, argument = line.partition(" ")
    if word == "/reset":
        conversation.messages = []
        console.print("(forgotten)", style="dim", markup=False)
    elif word == "/model":
        conversation.switch(argument.strip())
        console.print(f"({conversation.current})", style="dim", markup=False)
    elif word.startswith("/"):
        console.print(HELP.format(names=", ".join(conversation.models)), style="dim", markup=False)
    else:
        dropped = conversation.ask(line, _write)
        console.print()
        if dropped:
            console.print(f"(the oldest {dropped} turns no longer fit and were dropped)", style="dim", markup=False)
