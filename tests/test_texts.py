"""Text files of a recipe: nothing lost, files in turn, trouble told in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.problem import Problem
from potstill.texts import _passages, passages, read_text


@given(st.text(alphabet="ab 好\n", min_size=1).filter(str.strip), st.integers(1, 20))
def test_passages_are_the_whole_text_in_whole_lines(text: str, size: int) -> None:
    found = list(_passages(text, size))
    whole = "".join(found)
    assert text.startswith(whole) and not text[len(whole) :].strip()
    assert all(piece.endswith("\n") for piece in found[:-1])
    assert all(len(piece) <= size or len(piece.splitlines()) == 1 for piece in found)


def test_files_take_turns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a1\na2\na3\n")
    (tmp_path / "b.txt").write_text("b1\n")
    found = list(passages([tmp_path / "a.txt", tmp_path / "b.txt"], 3))
    assert found == ["a1\n", "b1\n", "a2\n", "a3\n"]
    assert list(passages([], 3)) == []


@pytest.mark.parametrize(
    ("content", "said"), [(b"\xff\xfe\x00", "cannot be read as text"), (b"", "is empty"), (b" \n ", "is empty")]
)
def test_what_is_no_text_is_told_in_words(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(Problem, match=said) as caught:
        read_text(path)
    assert str(path) in str(caught.value)


def test_a_missing_text_or_a_folder_is_told_in_words(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(Problem, match="cannot be read as text"):
            read_text(path)
