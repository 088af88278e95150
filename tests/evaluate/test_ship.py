"""What ships of the default teacher is what the default sizes ask, no more and no less."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from potstill.evaluate.replies import SHIPPED, Written
from potstill.evaluate.ship import default_keys, ship
from potstill.models.catalogue import CATALOGUE
from potstill.notebook import Notebook
from potstill.problem import Problem

NAME = f"{CATALOGUE[0].sha256}.jsonl"


def test_every_question_of_the_default_sizes_is_answered() -> None:
    text = (files("potstill.evaluate") / SHIPPED / NAME).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]

    assert [key for key, _ in rows] == default_keys()  # if not: python -m potstill.evaluate.ship
    replies = [Written(**value) for _, value in rows if isinstance(value, dict)]
    likelihoods = [value for _, value in rows if isinstance(value, list)]
    assert len(replies) + len(likelihoods) == len(rows)
    assert all(reply.text and reply.tokens for reply in replies)
    assert all(len(values) == 4 and max(values) < 0 for values in likelihoods)


def test_what_was_never_asked_cannot_be_shipped(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=f"{len(default_keys())} replies are not there"):
        ship(tmp_path / "home", tmp_path)


def test_shipping_keeps_what_is_asked_and_nothing_else(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path / "home" / "replies" / NAME)
    for place, key in enumerate(["another", *reversed(default_keys())]):
        notebook.put(key, place)

    count = ship(tmp_path / "home", tmp_path)

    lines = (tmp_path / SHIPPED / NAME).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)[0] for line in lines] == default_keys() and count == len(lines)


def test_own_replies_come_before_those_that_ship(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    Notebook(path).put("a", "own")

    opened = Notebook(path, '["a", "shipped"]\n["b", "shipped"]\n')

    assert (opened["a"], opened["b"]) == ("own", "shipped")
