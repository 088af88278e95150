"""Binding: exact bytes first, then mutual neighbours in one space, and what is left goes where the recipe says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from potstill.problem import Problem
from potstill.recipe import BindingSection
from potstill.vocab.binding import EXACT, NEIGHBOUR, Binding, bind_exactly, first_tokens, mutual_neighbours
from potstill.vocab.foreign import bind
from potstill.vocab.pairs import Speaker
from potstill.vocab.pieces import END, UNUSED, Piece, pieces_of
from potstill.vocab.vectors import sentences, train_vectors, word
from tiny import SENTENCES, VOCABULARY, build_phi3_tokenizer, build_tokenizer
from tiny_foreign import student_speaker, teacher_speaker

TEACHER: list[Piece] = [b"a", b"\xe5", "微信".encode(), "天气好".encode(), END, "<|im_start|>", UNUSED]
STUDENT: list[Piece] = ["<unk>", b"\xe5", b"a", b"a", b"WeChat", "天".encode(), END, "<s>", UNUSED]


def section(**settings: object) -> BindingSection:
    return BindingSection.model_validate(settings)


@pytest.mark.parametrize("build", [build_tokenizer, build_phi3_tokenizer])
def test_a_tokenizer_is_bound_to_itself_by_the_identity(build: object) -> None:
    pieces = pieces_of(build())
    binding = bind_exactly(pieces, pieces)
    assert binding.student_of.tolist() == list(range(len(pieces)))
    assert set(binding.how) == {EXACT}


def test_same_bytes_and_same_names_are_bound() -> None:
    binding = bind_exactly(TEACHER, STUDENT)
    # The letter, not the byte token before it; ids that no token has stay alone.
    assert binding.student_of.tolist() == [3, 1, -1, -1, 6, -1, -1]
    assert binding.unbound().tolist() == [2, 3, 5, 6]


def test_the_bytes_of_both_kinds_of_tokenizer_meet() -> None:
    teacher, student = teacher_speaker(), student_speaker()
    binding = bind_exactly(teacher.pieces, student.pieces)
    for index in binding.bound(EXACT):
        assert teacher.pieces[index] == student.pieces[binding.student_of[index]]
    # Every byte is a token of both, and ends of turn mean the same.
    assert {teacher.pieces[index] for index in binding.bound(EXACT)} >= {bytes([byte]) for byte in range(256)}
    assert binding.student_of[teacher.end] == student.end


@pytest.mark.parametrize("rows", [1, 2048])
def test_neighbours_are_mutual_and_near(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr("potstill.vocab.binding.ROWS", rows)
    ids = np.array([10, 11, 12]), np.array([20, 21])
    teacher = np.array([[1, 0], [0.9, 0.436], [0, 1]], dtype=np.float32)
    student = np.array([[1, 0], [-0.6, 0.8]], dtype=np.float32)
    pairs, cosines = mutual_neighbours(*ids, (teacher, student), 0.5)
    # 11 likes 20 too, but 20 likes 10 more; nobody is bound twice.
    assert pairs == {10: 20, 12: 21}
    assert cosines == pytest.approx({10: 1.0, 12: 0.8})
    assert mutual_neighbours(*ids, (teacher, student), 0.9)[0] == {10: 20}
    assert mutual_neighbours(np.array([]), ids[1], (teacher[:0], student), 0.1) == ({}, {})


def test_first_tokens_are_the_longest_that_the_bytes_begin_with() -> None:
    assert first_tokens(TEACHER, STUDENT) == {0: 3, 1: 1, 2: 1, 3: 5}


def chat_about(name: str) -> list[Piece]:
    return [part.encode() for part in ("我", "用", name, "发", "消息", "给", "你")]


def test_script_variants_land_together() -> None:
    """微信, wechat and WeChat keep the same company; other words keep another."""
    pytest.importorskip("gensim")
    cuts = [(chat_about(one), chat_about(other)) for one in ("微信", "wechat") for other in ("WeChat", "微信")] * 12
    others = [[part.encode() for part in ("番茄", "炒", "鸡蛋", "要", "先", "打散", "再", "下锅")]] * 48
    corpus = list(sentences([*cuts, *zip(others, others, strict=True)], 0))
    vectors = train_vectors(corpus, 32, 20, seed=0)
    for variant in ("wechat", "WeChat"):
        assert vectors["微信"] @ vectors[variant] > 0.6
        assert vectors["微信"] @ vectors[variant] > vectors["番茄"] @ vectors[variant] + 0.2
    again = train_vectors(corpus, 32, 20, seed=0)
    assert all(np.array_equal(vectors[name], again[name]) for name in vectors)


def test_torn_characters_and_blanks_are_no_words() -> None:
    assert [word(piece) for piece in (b"\xe5\xbe", b"  ", END, b" the")] == [None, None, None, "▁the"]


def test_what_is_left_goes_where_the_recipe_says() -> None:
    pytest.importorskip("gensim")
    student, teacher = student_speaker(), teacher_speaker()
    alone = bind(student, teacher, SENTENCES, section(neighbours=False), 0)
    assert set(alone.how) == {EXACT, ""}
    near = bind(student, teacher, SENTENCES, section(threshold=0.3, epochs=2, dimensions=16), 0)
    bound = near.bound(NEIGHBOUR)
    assert len(bound) > 0
    assert (near.cosine[bound] >= 0.3).all()
    assert len(set(near.student_of[bound].tolist())) == len(bound)
    assert near.student_of[alone.bound(EXACT)].tolist() == alone.student_of[alone.bound(EXACT)].tolist()
    unknown = bind(student, teacher, [], section(neighbours=False, unbound="unk"), 0)
    assert (unknown.student_of[alone.unbound()] == student.tokenizer.unk_token_id).all()
    first = bind(student, teacher, [], section(neighbours=False, unbound="first"), 0)
    for index in first.bound("first"):
        assert teacher.pieces[index].startswith(student.pieces[first.student_of[index]])
    with pytest.raises(Problem, match="no unknown token"):
        bind(Speaker.of(build_tokenizer(), VOCABULARY), teacher, [], section(neighbours=False, unbound="unk"), 0)


def test_the_file_can_be_read_and_edited(tmp_path: Path) -> None:
    binding = bind_exactly(TEACHER, STUDENT).also({2: 4}, NEIGHBOUR, {2: 0.75})
    path = tmp_path / "binding.jsonl"
    binding.save(path, TEACHER, STUDENT)
    assert '"teacher": "微信", "student": "WeChat", "how": "neighbour", "cosine": 0.75' in path.read_text()
    again = Binding.load(path)
    assert again.student_of.tolist() == binding.student_of.tolist()
    assert (again.how, again.students, again.cosine[2]) == (binding.how, len(STUDENT), 0.75)
    path.write_text(path.read_text().replace('"student_id": 4', '"student_id": 99'))
    with pytest.raises(Problem, match="not a token binding"):
        Binding.load(path)
