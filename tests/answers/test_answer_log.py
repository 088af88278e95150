"""Tests of the files that answers lie in."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.answers import Answer, read_answers
from potstill.answers.answer import AnswerLog, save_answers
from potstill.problem import Problem
from potstill.prompts import Prompt

SAMPLING = {"temperature": 0.7, "top_k": 20, "seed": 5}


def answer(name: str, text: str) -> Answer:
    return Answer(Prompt(name, f"{text}？", "own", "own.txt:1", "train"), text, "stop", 3, SAMPLING)


ANSWERS = [answer("a", "一行\n两行"), answer("b", "甲\u2028乙😀"), answer("c", "")]


def test_answers_read_back_as_written(tmp_path: Path) -> None:
    given_answer = Answer(Prompt("d", "问", "own", "x:1", "held-out", "答"), "答", "given", 1, None)
    save_answers(tmp_path / "answers.jsonl", [*ANSWERS, given_answer])
    assert read_answers(tmp_path / "answers.jsonl") == [*ANSWERS, given_answer]


@given(cut=st.integers(0), junk=st.sampled_from([b"", b"\x00" * 40, b"\x00\n", b"{}\n", b'{"prompt": 3}\n', b"[]\n"]))
@settings(deadline=None, max_examples=60)
def test_log_survives_a_death_at_any_byte(cut: int, junk: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    log = AnswerLog(tmp_path_factory.mktemp("log") / "part.jsonl")
    with mock.patch("os.fsync"):
        for one in ANSWERS:
            log.append(one)
        content = log.path.read_bytes()
        cut %= len(content) + 1
        log.path.write_bytes(content[:cut] + junk)
        whole = content[:cut].count(b"\n")
        assert log.finished() == ANSWERS[:whole]
        for one in ANSWERS[whole:]:
            log.append(one)
        assert log.path.read_bytes() == content
        assert log.finished() == ANSWERS


def test_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "part.jsonl")
    assert log.finished() == []
    log.remove()


def test_appended_answer_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    log = AnswerLog(tmp_path / "part.jsonl")
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(log.path.read_bytes()))
    log.append(ANSWERS[0])
    assert synced[0].endswith(b"\n")


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(Problem, match=r"No space left.*finished answers are kept"):
        AnswerLog(tmp_path / "part.jsonl").append(ANSWERS[0])


def test_damaged_answers_are_told_by_line(tmp_path: Path) -> None:
    save_answers(tmp_path / "answers.jsonl", ANSWERS)
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"prompt"')
    with pytest.raises(Problem, match=r"answers\.jsonl:4: damaged"):
        read_answers(tmp_path / "answers.jsonl")
    with pytest.raises(Problem, match=r"absent\.jsonl: cannot be read"):
        read_answers(tmp_path / "absent.jsonl")
