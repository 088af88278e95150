"""Tests of the spelling that texts are brought to."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.prompts.normalise import normalise


@given(st.text())
@settings(deadline=None)
def test_doing_it_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(st.characters(codec=None)))  # lone surrogates too: JSON can spell them
@settings(deadline=None)
def test_result_can_be_written_and_has_no_control_characters(text: str) -> None:
    clean = normalise(text)
    clean.encode()
    assert not {character for character in clean if unicodedata.category(character) in ("Cc", "Cs")} - {"\n", "\t"}
    assert clean == clean.strip()
    assert unicodedata.is_normalized("NFC", clean)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  你好\u3000", "你好"),
        ("e\u0301te\u0301", "été"),
        ("e\u200b\u0301", "é"),  # composed only once the unseen character between is gone
        ("一行\r\n二行\r三行\u2028四行", "一行\n二行\n三行\n四行"),
        ("\ufeff标\x00题\x1b[0m", "标题[0m"),
        ("缩进\n\tprint(1)", "缩进\n\tprint(1)"),
        ("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),  # one family, spelled with joiners
        ("\x00\u200b \n", ""),
    ],
)
def test_what_is_removed_and_what_stays(text: str, expected: str) -> None:
    assert normalise(text) == expected
