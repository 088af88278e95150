"""Texts to read: held-out answers side by side, and the failures themselves.

In:  samples.json, failures.json.
Out: `Sample`s; `FailureKind`s, of which as many failures are shown as a person reads.
Does not know: how an answer is judged, HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from potstill.report import stages
from potstill.report.material import Json
from potstill.report.names import model_named
from potstill.report.words import Words, anything, join, same

SHOWN = 20
"""Failures of each kind that are shown; the others are counted."""
KINDS = {
    "code": Words("Code", "代码"),
    "commonsense": Words("Commonsense, weighed", "常识（按似然）"),
    "commonsense_written": Words("Commonsense, written", "常识（书写）"),
}

Piece = tuple[bool, str]
"""A stretch of an answer, and whether it is a fenced block of code."""


@dataclass(frozen=True)
class Sample:
    """One held-out question; answers are (model's name, model, pieces); `language` helps fonts and screen readers."""

    title: Words
    prompt: str
    answers: tuple[tuple[Words, str, tuple[Piece, ...]], ...]
    language: str


@dataclass(frozen=True)
class Failure:
    """One question that the student failed.

    Args:
        code: whether its texts are programs. expected, why: empty where nothing is known. answers: (model's name,
        model, whether it was right, text).
    """

    id: str
    question: str
    expected: str
    why: str
    code: bool
    answers: tuple[tuple[Words, str, bool, str], ...]
    language: str


@dataclass(frozen=True)
class FailureKind:
    """All failures of a kind: how many, how many of them the teacher had right, and those that are shown."""

    title: Words
    total: int
    lost: int
    shown: tuple[Failure, ...]

    @property
    def rest(self) -> int:
        """How many are not shown."""
        return self.total - len(self.shown)


def samples(entries: Sequence[Json]) -> list[Sample]:
    """Every held-out question, in the file's order."""
    return [_sample(entry) for entry in entries]


def failure_kinds(entries: Sequence[Json]) -> list[FailureKind]:
    """Failures by kind; those that the teacher had right come first, for they were lost on the way."""
    kinds: dict[str, list[Json]] = {}
    for entry in entries:
        kinds.setdefault(str(entry.get("kind")), []).append(entry)
    found = []
    for kind, members in kinds.items():
        ordered = sorted(members, key=lambda entry: not entry.get("teacher_right"))
        lost = sum(bool(entry.get("teacher_right")) for entry in members)
        shown = tuple(_failure(entry) for entry in ordered[:SHOWN])
        found.append(FailureKind(KINDS.get(kind, same(kind)), len(members), lost, shown))
    return found


def answer_pieces(text: str) -> tuple[Piece, ...]:
    """The text cut at its code fences, the fences staying with the code; nothing for a blank text.

    Joined again the pieces are the text. A fence that never closes reaches to the end.
    """
    pieces: list[tuple[bool, str]] = []
    fenced = False
    for line in text.splitlines(keepends=True) if text.strip() else []:
        fence = line.lstrip().startswith("```")
        inside = fenced or fence
        fenced = fenced != fence
        if pieces and pieces[-1][0] == inside:
            pieces[-1] = (inside, pieces[-1][1] + line)
        else:
            pieces.append((inside, line))
    return tuple(pieces)


def language_of(text: str) -> str:
    """The language to announce for a text; empty where that can't be told."""
    return "zh-Hans" if any("\u4e00" <= letter <= "\u9fff" for letter in text) else ""


def _sample(entry: Json) -> Sample:
    texts = {name: str(entry.get(name) or "") for name in ("prompt", "teacher", "student")}
    known = ("id", "category", "prompt")
    models = [name for name in entry if name not in known and isinstance(entry[name], str)]
    answers = tuple((model_named(name), name, answer_pieces(entry[name])) for name in models)
    labels = [anything(entry[name], stages.PARTS) for name in ("category", "id") if entry.get(name)]
    return Sample(join(labels, " · ", " · "), texts["prompt"], answers, language_of("".join(texts.values())))


def _failure(entry: Json) -> Failure:
    texts = {name: _text(entry, name) for name in ("id", "question", "expected", "why", "student", "teacher")}
    right = {"student": False, "teacher": bool(entry.get("teacher_right"))}
    answers = tuple((model_named(name), name, right[name], texts[name]) for name in ("teacher", "student"))
    return Failure(
        texts["id"], texts["question"], texts["expected"], texts["why"], entry.get("kind") == "code", answers,
        language_of(texts["question"]),
    )  # fmt: skip


def _text(entry: Json, name: str) -> str:
    value = entry.get(name)
    return "" if value is None else str(value).strip("\n")
