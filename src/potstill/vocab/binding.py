"""Which student token each token of a teacher with another tokenizer stands for.

In:  the pieces of both vocabularies; for neighbours, word vectors of both.
Out: a `Binding`, and its file.
Does not know: tokenizers, models, how vectors are made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from potstill.problem import Problem
from potstill.run import write_text
from potstill.vocab.pieces import UNUSED, Piece, readable

FILE = "binding.jsonl"
ROWS = 2048
"""Teacher tokens compared with all of the student's at a time: 200 MB for 25,000 of those."""
EXACT, NEIGHBOUR, FIRST, UNKNOWN = "exact", "neighbour", "first", "unknown"
NOBODY = -1
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Binding:
    """Teacher id → student id.

    Args:
        student_of: [V teacher] int64; `NOBODY` where unbound. how: of each; "" where unbound.
        cosine: [V teacher] of two neighbours; 1 where bound exactly, 0 elsewhere.
        students: tokens the student has.
    """

    student_of: NDArray[np.int64]
    how: tuple[str, ...]
    cosine: Floats
    students: int

    def unbound(self) -> NDArray[np.int64]:
        """Teacher ids that stand for no student token."""
        return np.flatnonzero(self.student_of == NOBODY)

    def bound(self, how: str) -> NDArray[np.int64]:
        """Teacher ids bound in that way."""
        return np.array([index for index, way in enumerate(self.how) if way == how], dtype=np.int64)

    def also(self, more: Mapping[int, int], how: str, cosines: Mapping[int, float] | None = None) -> Binding:
        """With more tokens bound; those that are bound already stay as they are."""
        student_of, ways, cosine = self.student_of.copy(), list(self.how), self.cosine.copy()
        for teacher, student in more.items():
            if student_of[teacher] == NOBODY:
                student_of[teacher], ways[teacher] = student, how
                cosine[teacher] = (cosines or {}).get(teacher, 0.0)
        return Binding(student_of, tuple(ways), cosine, self.students)

    def save(self, path: Path, teacher: Sequence[Piece], student: Sequence[Piece]) -> None:
        """Write JSONL: a line of sizes, then a line for each bound teacher token, readable tokens beside the ids."""
        lines: list[dict[str, Any]] = [{"teacher_tokens": len(self.student_of), "student_tokens": self.students}]
        for index in np.flatnonzero(self.student_of != NOBODY).tolist():
            to = int(self.student_of[index])
            lines.append(
                {
                    "teacher": readable(teacher[index]),
                    "student": readable(student[to]),
                    "how": self.how[index],
                    "cosine": round(float(self.cosine[index]), 4),
                    "teacher_id": index,
                    "student_id": to,
                }
            )
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    @classmethod
    def load(cls, path: Path) -> Binding:
        """Read what `save` wrote; edited lines count. Raises: Problem where the file is missing or damaged."""
        try:
            sizes, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").strip("\n").split("\n")]
            nobody = np.full(sizes["teacher_tokens"], NOBODY, dtype=np.int64)
            student_of, how = nobody, [""] * len(nobody)
            cosine = np.zeros(len(nobody), dtype=np.float32)
            for line in lines:
                index = line["teacher_id"]
                student_of[index], how[index], cosine[index] = line["student_id"], line["how"], line["cosine"]
            if student_of.max(initial=NOBODY) >= sizes["student_tokens"]:
                raise ValueError("a student id is out of range")
            return cls(student_of, tuple(how), cosine, sizes["student_tokens"])
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise Problem(f"{path}: not a token binding ({error})", "Run the stage `vocab` again.") from None


def bind_exactly(teacher: Sequence[Piece], student: Sequence[Piece]) -> Binding:
    """Bind tokens that spell the same bytes, and special tokens of the same name.

    Of several student tokens for the same bytes it is the last: SentencePiece's letters come after its byte tokens, and
    only they are written for text. A vocabulary is bound to itself by id.
    """
    by_piece: dict[Piece, list[int]] = {}
    for index, piece in enumerate(student):
        if piece != UNUSED:
            by_piece.setdefault(piece, []).append(index)
    same = len(teacher) == len(student) and list(teacher) == list(student)
    nobody = Binding(
        np.full(len(teacher), NOBODY, dtype=np.int64),
        ("",) * len(teacher),
        np.zeros(len(teacher), np.float32),
        len(student),
    )
    found = {index: index if same else by_piece[piece][-1] for index, piece in enumerate(teacher) if piece in by_piece}
    return nobody.also(found, EXACT, dict.fromkeys(found, 1.0))


def mutual_neighbours(
    teacher: NDArray[np.int64], student: NDArray[np.int64], vectors: tuple[Floats, Floats], threshold: float
) -> tuple[dict[int, int], dict[int, float]]:
    """Pairs of tokens that are each other's nearest, at a cosine of `threshold` or more.

    Args:
        teacher, student: [U], [W] ids. vectors: [U, d] and [W, d] of those, of length 1, in one space.

    Returns: teacher id → student id, and teacher id → cosine.
    """
    if not len(teacher) or not len(student):
        return {}, {}
    nearest, cosine = np.empty(len(teacher), np.int64), np.empty(len(teacher), np.float32)
    back, most = np.zeros(len(student), np.int64), np.full(len(student), -np.inf, np.float32)
    for begin in range(0, len(teacher), ROWS):
        cosines = vectors[0][begin : begin + ROWS] @ vectors[1].T
        rows = slice(begin, begin + len(cosines))
        nearest[rows], cosine[rows] = cosines.argmax(axis=1), cosines.max(axis=1)
        best = cosines.max(axis=0)
        nearer = best > most
        back[nearer], most[nearer] = begin + cosines.argmax(axis=0)[nearer], best[nearer]
    kept = [row for row, to in enumerate(nearest) if back[to] == row and cosine[row] >= threshold]
    pairs = {int(teacher[row]): int(student[nearest[row]]) for row in kept}
    return pairs, {int(teacher[row]): float(cosine[row]) for row in kept}


def first_tokens(teacher: Sequence[Piece], student: Sequence[Piece]) -> dict[int, int]:
    """Teacher id → the longest student token that its bytes begin with.

    A student that is to write a long teacher token writes that token first, so this is where its probability belongs
    at that position, up to the student's own way of cutting the rest.
    """
    known = {piece: index for index, piece in enumerate(student) if isinstance(piece, bytes) and piece}
    longest = max(map(len, known), default=0)
    found = {}
    for index, piece in enumerate(teacher):
        if isinstance(piece, bytes):
            for end in range(min(len(piece), longest), 0, -1):
                if piece[:end] in known:
                    found[index] = known[piece[:end]]
                    break
    return found
