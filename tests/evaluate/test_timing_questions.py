"""Which prompts are timed: all fit the timed engine's context, whatever else the run has."""

from __future__ import annotations

from potstill.evaluate.speed import LONG_CHARACTERS, choose_questions


def test_short_middle_and_long_are_taken() -> None:
    texts = ["字" * length for length in (40, 3, 10, 20, 30, LONG_CHARACTERS)]
    assert [(kind, len(text)) for kind, text in choose_questions(texts, 2)] == [
        ("short", 3),
        ("middle", 20),
        ("middle", 30),
        ("long", LONG_CHARACTERS),
    ]


def test_documents_are_not_timed_where_there_are_questions() -> None:
    chosen = choose_questions(["字" * 700] * 50 + ["怎么煮饭？", "几点了？"], 4)
    assert {len(text) for _, text in chosen} == {4, 5} and {kind for kind, _ in chosen} == {"short", "middle", "long"}


def test_of_documents_alone_the_shortest_is_timed() -> None:
    assert {len(text) for _, text in choose_questions(["字" * 700, "字" * 300, "字" * 500], 4)} == {300}
