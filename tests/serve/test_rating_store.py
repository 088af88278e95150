"""The operator's file and the store of blind ratings, which survives anything."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_server import QUESTIONS, write_rating

from potstill.evaluate.naturalness import read_ratings
from potstill.problem import Problem
from potstill.serve.rating_settings import RatingSettings, load_rating_settings
from potstill.serve.rating_store import AlreadyVoted, NameTaken, RatingStore, Vote

MODELS = ("student", "teacher")

# ---- settings ----


def test_settings_are_read(tmp_path: Path) -> None:
    settings = load_rating_settings(write_rating(tmp_path), MODELS)
    assert settings.models == MODELS
    assert settings.questions == tuple(QUESTIONS)


def test_settings_may_begin_as_powershell_writes_them(tmp_path: Path) -> None:
    path = write_rating(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_rating_settings(path, MODELS).models == MODELS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": None}, "models: missing"),
        ({"models": ["student", "student"]}, "two different ones"),
        ({"models": ["student"]}, "models"),
        ({"models": ["student", "GPT"]}, "'GPT'"),
        ({"questions": []}, "questions"),
        ({"questions": ["one", "  "]}, "questions.2"),
        ({"questions": ["same", "same"]}, "twice"),
        ({"questions": ["x" * 2001]}, "questions.1"),
        ({"question": ["typo"]}, "question: unknown key; did you mean `questions`?"),
        ({"raters_per_conversation": 0}, "raters_per_conversation"),
        ({"characters_per_second": 0.0}, "characters_per_second"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Problem, match=r"rating\.toml") as raised:
        load_rating_settings(write_rating(tmp_path, **changes), MODELS)
    assert words in str(raised.value)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rating.toml"
    with pytest.raises(Problem, match="no such file"):
        load_rating_settings(path, MODELS)
    path.write_text("models = [")
    with pytest.raises(Problem, match="not valid TOML"):
        load_rating_settings(path, MODELS)


def test_settings_have_the_published_defaults() -> None:
    given = RatingSettings(models=MODELS, questions=("?",))
    assert (given.raters_per_conversation, given.characters_per_second) == (2, 24.0)


# ---- store ----


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RatingStore]:
    opened = RatingStore(tmp_path / "ratings.sqlite", MODELS, QUESTIONS, 2)
    yield opened
    opened.close()


def test_a_vote_becomes_two_ratings_that_the_scorecard_reads(store: RatingStore) -> None:
    rater = store.find_rater(store.add_rater("Anna"))
    assert rater is not None
    order = store.order(rater, 1)
    store.vote(rater, Vote(1, 5, 2, "a"))
    found = {one.model: one for one in read_ratings(store.path)}
    assert {model: one.score for model, one in found.items()} == {order[0]: 5, order[1]: 2}
    assert {one.rater for one in found.values()} == {"rater-1"}  # never the name
    assert {(one.conversation, one.turn) for one in found.values()} == {(rater.conversation, 1)}


def test_a_second_vote_changes_nothing(store: RatingStore) -> None:
    rater = store.find_rater(store.add_rater("Anna"))
    assert rater is not None
    store.vote(rater, Vote(1, 5, 2, "a"))
    before = read_ratings(store.path)
    with pytest.raises(AlreadyVoted):
        store.vote(rater, Vote(1, 1, 1, "b"))
    assert read_ratings(store.path) == before


def test_a_vote_is_kept_whole_or_not_at_all(store: RatingStore) -> None:
    rater = store.find_rater(store.add_rater("Anna"))
    assert rater is not None
    with sqlite3.connect(store.path) as other:
        other.execute("CREATE TRIGGER disk_full BEFORE INSERT ON ratings BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(sqlite3.Error):
        store.vote(rater, Vote(1, 5, 2, "a"))
    again = store.raters()[0]
    assert again.done == 0
    assert read_ratings(store.path) == []


def test_tokens_are_long_random_and_not_in_the_file(store: RatingStore) -> None:
    tokens = {store.add_rater(f"Rater {place}") for place in range(20)}
    assert len(tokens) == 20
    assert min(len(token) for token in tokens) >= 32
    content = b"".join(path.read_bytes() for path in store.path.parent.iterdir())
    assert not any(token.encode() in content for token in tokens)
    assert store.find_rater("") is None
    assert store.find_rater(min(tokens)[:-1]) is None


def test_a_new_token_ends_the_old_one_and_keeps_the_votes(store: RatingStore) -> None:
    old = store.add_rater("Anna")
    rater = store.find_rater(old)
    assert rater is not None
    store.vote(rater, Vote(1, 5, 2, "a"))
    with pytest.raises(NameTaken):
        store.add_rater("Anna")
    new = store.renew_token("Anna")
    assert new is not None
    assert store.find_rater(old) is None
    again = store.find_rater(new)
    assert again is not None
    assert (again.id, again.done) == (rater.id, 1)
    assert store.renew_token("Nobody") is None


def test_the_order_is_drawn_for_each_rater_and_turn_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "ratings.sqlite"
    first = RatingStore(path, MODELS, QUESTIONS, 2)
    for place in range(40):
        first.add_rater(f"Rater {place}")
    drawn = [[first.order(rater, turn) for turn in range(1, 11)] for rater in first.raters()]
    first.close()
    second = RatingStore(path, (MODELS[1], MODELS[0]), QUESTIONS, 2)
    assert [[second.order(rater, turn) for turn in range(1, 11)] for rater in second.raters()] == drawn
    second.close()
    students_first = sum(order[0] == "student" for orders in drawn for order in orders)
    assert 130 < students_first < 270  # 400 fair draws leave this range once in 10¹¹ times
    assert len({tuple(orders) for orders in drawn}) > 30


def test_raters_share_answers_by_twos_and_another_study_stays_apart(tmp_path: Path) -> None:
    path = tmp_path / "ratings.sqlite"
    first = RatingStore(path, MODELS, QUESTIONS, 2)
    tokens = [first.add_rater(name) for name in "ABCD"]
    talks = [rater.conversation for rater in first.raters()]
    assert talks[0] == talks[1] != talks[2] == talks[3]
    first.keep_answer(talks[0], 1, "student", "hello")
    first.keep_answer(talks[0], 1, "student", "something else")
    assert first.answer(talks[0], 1, "student") == "hello"
    first.close()
    second = RatingStore(path, MODELS, ["Another question"], 2)
    assert second.raters() == []
    assert second.find_rater(tokens[0]) is None
    token = second.add_rater("A")
    rater = second.find_rater(token)
    assert rater is not None
    assert rater.conversation not in talks
    second.close()


def test_a_file_that_is_no_database_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "ratings.sqlite"
    path.write_text("something else, long enough to be read as a page " * 40)
    with pytest.raises(Problem, match=r"ratings\.sqlite"):
        RatingStore(path, MODELS, QUESTIONS, 2)


VOTER = """
import sys
from pathlib import Path
from potstill.serve.rating_store import RatingStore, Vote
store = RatingStore(Path(sys.argv[1]), ("student", "teacher"), ["?"] * 1, 2)
place = 0
while True:
    place += 1
    rater = store.find_rater(store.add_rater(f"rater {place}"))
    store.vote(rater, Vote(1, 1 + place % 5, 3, "same"))
    print(place, flush=True)
"""


def test_votes_survive_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "ratings.sqlite"
    child = subprocess.Popen([sys.executable, "-c", VOTER, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = 0
    for line in child.stdout:
        told = int(line)
        if told >= 20:
            os.kill(child.pid, signal.SIGKILL)
            break
    told = max([told, *(int(line) for line in child.stdout if line.endswith("\n"))])
    assert child.wait() == -signal.SIGKILL
    # the reader first: it opens the file read-only while its log has not been folded in
    ratings = read_ratings(path)
    assert len(ratings) in (2 * told, 2 * told + 2)  # the last one may have been kept before it could be told
    store = RatingStore(path, MODELS, ["?"], 2)
    assert sum(tally.ratings for tally in store.tallies().values()) == len(ratings)
    assert store._base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()
