"""Blind ratings on disk: raters, the answers they read, and their votes, in one SQLite file.

In:  votes as they come; answers once they are written.
Out: what a rater has still to do; rows in the table that the scorecard reads; results and rows for a CSV.
Does not know: HTTP, models, how answers are made or shown.

A vote is one transaction in WAL mode: it is there whole or not at all, whenever the process is killed. The order of
A and B is worked out from a secret that stays in the file, so nothing outside it tells them apart. Of a token only
the hash is kept: who reads the file cannot rate in a rater's place. Other questions or models are another study:
its raters and answers stay apart.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from potstill.evaluate.naturalness import TABLE
from potstill.problem import Problem

Better = Literal["a", "b", "same"]
TABLES = f"""
{TABLE};
CREATE TABLE IF NOT EXISTS studies(
    id TEXT PRIMARY KEY, models TEXT NOT NULL, questions TEXT NOT NULL, secret BLOB NOT NULL, at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS raters(
    id INTEGER PRIMARY KEY,
    study TEXT NOT NULL REFERENCES studies(id),
    name TEXT NOT NULL,
    conversation TEXT NOT NULL,
    token_hash BLOB NOT NULL UNIQUE,
    at TEXT NOT NULL,
    UNIQUE (study, name)
);
CREATE TABLE IF NOT EXISTS answers(
    conversation TEXT NOT NULL,
    turn INTEGER NOT NULL,
    model TEXT NOT NULL,
    text TEXT NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (conversation, turn, model)
);
CREATE TABLE IF NOT EXISTS votes(
    rater INTEGER NOT NULL REFERENCES raters(id),
    turn INTEGER NOT NULL,
    model_a TEXT NOT NULL,
    model_b TEXT NOT NULL,
    score_a INTEGER NOT NULL CHECK (score_a BETWEEN 1 AND 5),
    score_b INTEGER NOT NULL CHECK (score_b BETWEEN 1 AND 5),
    better TEXT NOT NULL CHECK (better IN ('a', 'b', 'same')),
    at TEXT NOT NULL,
    PRIMARY KEY (rater, turn)
);
"""
COLUMNS = ("conversation", "turn", "rater", "model", "side", "score", "better", "at")
"""Columns of `RatingStore.rows`. `better` is yes, no or same, for this row's model."""
REMEDY = "Move it elsewhere, or restore it from a copy."


class AlreadyVoted(Exception):
    """This rater has rated this turn before."""


class NameTaken(Exception):
    """Another rater of this study bears that name."""


@dataclass(frozen=True)
class Rater:
    """Who rates. `name` is the operator's word for the person; ratings bear `alias` instead."""

    id: int
    name: str
    conversation: str
    done: int
    """Turns rated so far; turns are rated in their order."""

    @property
    def alias(self) -> str:
        """The made-up name that stays the same for a person."""
        return f"rater-{self.id}"


@dataclass(frozen=True)
class Vote:
    """What a rater says of one turn."""

    turn: int
    score_a: int
    score_b: int
    better: Better


@dataclass(frozen=True)
class Tally:
    """What was said of one model: number and mean of its scores, and how often it was the better one."""

    ratings: int
    mean: float | None
    better: int


class RatingStore:
    """The file. Any thread may use it; each method is one short transaction."""

    def __init__(self, path: Path, models: tuple[str, str], questions: Sequence[str], per_conversation: int) -> None:
        """Open the file, or make it.

        Args:
            path: of the run folder's ratings of one student (`evaluate.naturalness.ratings_file`).
            models: the two that are compared. questions: one for each turn.
            per_conversation: raters who read the same answers.

        Raises: Problem where the file cannot be used.
        """
        self.path, self.models, self.questions = path, models, tuple(questions)
        self._per_conversation = per_conversation
        self._lock = threading.Lock()
        described = json.dumps([sorted(models), list(questions)], ensure_ascii=False)
        self._study = hashlib.sha256(described.encode()).hexdigest()[:12]
        try:
            self._base = sqlite3.connect(path, timeout=10, check_same_thread=False)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.execute("PRAGMA foreign_keys = ON")
            self._base.executescript(TABLES)
            self._secret = self._open_study()
        except sqlite3.Error as error:
            raise Problem(f"{path}: ratings cannot be kept there ({error})", REMEDY) from None

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._base.close()

    def add_rater(self, name: str) -> str:
        """A new rater's token. Raises: NameTaken."""
        token = secrets.token_urlsafe(24)
        with self._writing() as base:
            (before,) = base.execute("SELECT count(*) FROM raters WHERE study = ?", (self._study,)).fetchone()
            conversation = f"{self._study}-{before // self._per_conversation + 1}"
            try:
                base.execute(
                    "INSERT INTO raters(study, name, conversation, token_hash, at) VALUES (?, ?, ?, ?, ?)",
                    (self._study, name, conversation, _hash(token), _now()),
                )
            except sqlite3.IntegrityError:
                raise NameTaken(name) from None
        return token

    def renew_token(self, name: str) -> str | None:
        """Another token for a rater, whose old one ends; their ratings stay. None where nobody bears the name."""
        token = secrets.token_urlsafe(24)
        with self._writing() as base:
            changed = base.execute(
                "UPDATE raters SET token_hash = ? WHERE study = ? AND name = ?", (_hash(token), self._study, name)
            )
        return token if changed.rowcount else None

    def find_rater(self, token: str) -> Rater | None:
        """Whose token it is; None where it is nobody's of this study."""
        hashed = _hash(token)
        with self._lock:
            row = self._base.execute(
                "SELECT id, name, conversation, token_hash, (SELECT count(*) FROM votes WHERE rater = raters.id) "
                "FROM raters WHERE study = ? AND token_hash = ?",
                (self._study, hashed),
            ).fetchone()
        if row is None or not hmac.compare_digest(row[3], hashed):
            return None
        return Rater(row[0], row[1], row[2], row[4])

    def raters(self) -> list[Rater]:
        """All raters of this study, in the order they were added."""
        with self._lock:
            rows = self._base.execute(
                "SELECT id, name, conversation, (SELECT count(*) FROM votes WHERE rater = raters.id) "
                "FROM raters WHERE study = ? ORDER BY id",
                (self._study,),
            ).fetchall()
        return [Rater(*row) for row in rows]

    def order(self, rater: Rater, turn: int) -> tuple[str, str]:
        """Which model is A and which is B: drawn for each rater and turn, and the same whenever it is asked."""
        drawn = hmac.digest(self._secret, f"{rater.id}:{turn}".encode(), "sha256")[0] & 1
        first, second = sorted(self.models)
        return (second, first) if drawn else (first, second)

    def answer(self, conversation: str, turn: int, model: str) -> str | None:
        """What a model answered; None where it has not answered yet."""
        with self._lock:
            row = self._base.execute(
                "SELECT text FROM answers WHERE conversation = ? AND turn = ? AND model = ?",
                (conversation, turn, model),
            ).fetchone()
        return None if row is None else str(row[0])

    def keep_answer(self, conversation: str, turn: int, model: str, text: str) -> None:
        """Keep an answer for good: a second one for the same place changes nothing."""
        with self._writing() as base:
            base.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", (conversation, turn, model, text, _now())
            )

    def vote(self, rater: Rater, vote: Vote) -> None:
        """Keep a vote and the two ratings that it holds. Raises: AlreadyVoted."""
        model_a, model_b = self.order(rater, vote.turn)
        now = _now()
        scores = (vote.score_a, vote.score_b, vote.better)
        ratings = [
            (rater.conversation, vote.turn, rater.alias, model, score, now)
            for model, score in ((model_a, vote.score_a), (model_b, vote.score_b))
        ]
        with self._writing() as base:
            try:
                base.execute(
                    "INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (rater.id, vote.turn, model_a, model_b, *scores, now),
                )
            except sqlite3.IntegrityError:
                raise AlreadyVoted(vote.turn) from None
            base.executemany(
                "INSERT INTO ratings(conversation, turn, rater, model, score, at) VALUES (?, ?, ?, ?, ?, ?)", ratings
            )

    def tallies(self) -> dict[str, Tally]:
        """What was said of each model of this study."""
        rows = self.rows()
        found = {}
        for model in self.models:
            scores = [int(score) for _, _, _, name, _, score, _, _ in rows if name == model]
            better = sum(1 for _, _, _, name, _, _, verdict, _ in rows if name == model and verdict == "yes")
            found[model] = Tally(len(scores), sum(scores) / len(scores) if scores else None, better)
        return found

    def rows(self) -> list[tuple[str, int, str, str, str, int, str, str]]:
        """Every rating of this study, under `COLUMNS`."""
        with self._lock:
            votes = self._base.execute(
                "SELECT conversation, turn, raters.id, model_a, model_b, score_a, score_b, better, votes.at "
                "FROM votes JOIN raters ON raters.id = votes.rater WHERE study = ? ORDER BY votes.rowid",
                (self._study,),
            ).fetchall()
        found = []
        for conversation, turn, rater, model_a, model_b, score_a, score_b, better, at in votes:
            for side, model, score in (("a", model_a, score_a), ("b", model_b, score_b)):
                verdict = "same" if better == "same" else "yes" if better == side else "no"
                found.append((conversation, turn, f"rater-{rater}", model, side, score, verdict, at))
        return found

    def _open_study(self) -> bytes:
        row = (self._study, json.dumps(self.models), json.dumps(self.questions, ensure_ascii=False))
        with self._writing() as base:
            # two servers may open the same file at once: the first one's secret counts
            base.execute(
                "INSERT OR IGNORE INTO studies VALUES (?, ?, ?, ?, ?)", (*row, secrets.token_bytes(32), _now())
            )
            (secret,) = base.execute("SELECT secret FROM studies WHERE id = ?", (self._study,)).fetchone()
        return bytes(secret)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; whatever goes wrong inside leaves the file as it was."""
        with self._lock, self._base:
            self._base.execute("BEGIN IMMEDIATE")
            yield self._base


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
