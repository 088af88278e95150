"""Two cuts of one text meet where tokens of both begin at the same byte, and nowhere else."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.vocab.alignment import align
from potstill.vocab.pairs import Speaker, pair
from potstill.vocab.pieces import END, Piece
from tiny_foreign import TEXTS, some_answers, student_speaker, teacher_speaker


@pytest.fixture(scope="module")
def student() -> Speaker:
    return student_speaker()


@pytest.fixture(scope="module")
def teacher() -> Speaker:
    return teacher_speaker()


def cut(*tokens: str | bytes) -> list[Piece]:
    return [token.encode() if isinstance(token, str) else token for token in tokens]


FAMILY = "👨‍👩‍👧".encode()
CASES = {
    "the same cut": (cut("ab", "c"), cut("ab", "c"), [(0, 0), (1, 1)]),
    "nothing in common but the start": (cut("ab", "c"), cut("a", "bc"), [(0, 0)]),
    "Chinese words and characters": (
        cut("今天", "天气", "很好"), cut("今", "天天", "气", "很", "好"), [(0, 0), (2, 3)],
    ),
    "Chinese bytes": (cut("微信", "好"), cut(*[bytes([byte]) for byte in "微信".encode()], "好"), [(0, 0), (1, 6)]),
    "torn in different places": (cut(b"\xe5\xbe", b"\xae"), cut(b"\xe5", b"\xbe\xae"), [(0, 0)]),
    "a family of emoji": (
        cut(FAMILY[:4], FAMILY[4:], "!"), cut(FAMILY[:3], FAMILY[3:4], FAMILY[4:7], FAMILY[7:], "!"),
        [(0, 0), (1, 2), (2, 4)],
    ),
    "indentation": (cut("x:", "\n   ", " return"), cut("x", ":\n", "    ", "return"), [(0, 0)]),
    "a run of blanks": (cut("a", "  ", " b"), cut("a", " ", " ", " b"), [(0, 0), (1, 1), (2, 3)]),
    "CRLF in one and in two": (cut("a", "\r\n", "b"), cut("a", "\r", "\n", "b"), [(0, 0), (1, 1), (2, 3)]),
    "a combining mark": (cut("e\u0301", "x"), cut("e", "\u0301", "x"), [(0, 0), (1, 2)]),
    "an empty piece: the later one spells what comes": (cut("a"), cut(b"", "a"), [(0, 1)]),
    "another normal form ends it": (cut("a", "é", "x"), cut("a", "e\u0301", "x"), [(0, 0), (1, 1)]),
    "cut short": (cut("a", "b", "c"), cut("a", "b"), [(0, 0), (1, 1)]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_tokens_that_begin_together(name: str) -> None:
    first, second, expected = CASES[name]
    found = align(first, second)
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == expected
    turned = align(second, first)
    assert (turned.first.tolist(), turned.second.tolist()) == (found.second.tolist(), found.first.tolist())


def test_special_tokens_are_units_met_under_their_own_name() -> None:
    found = align([b"ab", END], [b"a", b"b", END])
    assert (found.first.tolist(), found.second.tolist()) == ([0, 1], [0, 2])
    assert align([b"a", END], [b"a", "other"]).groups() == [(slice(0, 1), slice(0, 1))]
    # What a special token is called is no text.
    assert align([END], [END.encode()]).groups() == []


@given(st.text(min_size=1), st.data())
@settings(max_examples=100, deadline=None)
def test_groups_cover_the_text_and_spell_the_same(text: str, data: st.DataObject) -> None:
    whole = text.encode()
    sides = []
    for _ in range(2):
        places = sorted({0, len(whole), *data.draw(st.lists(st.integers(0, len(whole)), max_size=8))})
        sides.append([whole[begin:end] for begin, end in pairwise(places)])
    groups = align(*sides).groups()
    assert b"".join(b"".join(sides[0][ours]) for ours, _ in groups) == whole
    for ours, theirs in groups:
        assert b"".join(sides[0][ours]) == b"".join(sides[1][theirs]) != b""


@pytest.mark.parametrize("text", TEXTS)
def test_real_tokenizers_spell_the_text(student: Speaker, teacher: Speaker, text: str) -> None:
    text = unicodedata.normalize("NFC", text)
    for speaker in (student, teacher):
        assert b"".join(piece for piece in speaker.cut(text) if isinstance(piece, bytes)) == text.encode()
    found = align(student.cut(text), teacher.cut(text))
    assert found.whole
    assert len(found.first) >= bool(text)


def test_pairs_hold_the_places_that_both_share(student: Speaker, teacher: Speaker) -> None:
    answers = some_answers()
    pairs = pair(student, teacher, answers, 512)
    assert len(pairs) == len(answers)
    for (ours, theirs), answer in zip(pairs, answers, strict=True):
        assert ours.id == theirs.id == answer.prompt.id
        assert ours.rows == theirs.rows > 1
        said = [student.pieces[index] for index in ours.ids[ours.predicted]]
        read = [teacher.pieces[index] for index in theirs.ids[theirs.predicted]]
        # The pieces differ in length; both begin with the same byte, and ends of turn meet.
        assert [one[:1] for one in said] == [one[:1] for one in read]
        assert (said[-1] == END) == (read[-1] == END) == (answer.finish != "length")


def test_a_cut_answer_still_meets_before_the_cut(student: Speaker, teacher: Speaker) -> None:
    answer = some_answers()[6]
    longest = max(len(one.ids) for one in pair(student, teacher, [answer], 512)[0])
    short = pair(student, teacher, [answer], longest - 3)[0]
    assert 0 < short[0].rows < pair(student, teacher, [answer], 512)[0][0].rows
    assert pair(student, teacher, [answer], 3) == []
