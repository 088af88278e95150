"""Scripts: which one a text is written in, and what in it is code."""

from __future__ import annotations

import pytest

from potstill.scripts import CODE, FOREIGN, HAN, LATIN_WORD


@pytest.mark.parametrize(
    ("text", "han", "foreign", "words"),
    [
        ("用 Python 写一个函数", 6, 0, 1),
        ("ひらがなと漢字", 2, 5, 0),
        ("don't stop, naïve café", 0, 0, 4),
        ("Привет 안녕 שלום", 0, 12, 0),
        ("E = mc², α ≤ β", 0, 0, 2),
    ],
)
def test_scripts_are_told_apart(text: str, han: int, foreign: int, words: int) -> None:
    assert [len(part.findall(text)) for part in (HAN, FOREIGN, LATIN_WORD)] == [han, foreign, words]


def test_code_is_what_is_fenced_or_quoted_finished_or_not() -> None:
    assert CODE.sub("", "看 `x = 1`：\n```python\nprint(1)\n```\n好\n```\nwhile True") == "看 ：\n\n好\n"
