"""Tests of the search for overlapping texts, against the search that looks at everything."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.prompts import overlap
from potstill.prompts.overlap import GramRanks, OverlapIndex, Share, containment, grams, jaccard

TEXTS = st.lists(st.text("ab ", min_size=1).filter(str.strip), min_size=1, max_size=12)
THRESHOLDS = st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 0.1, 0.2, 0.25, 1 / 3, 0.5, 0.75, 0.8, 0.9, 1.0]))


def find_slowly(added: list[str], text: str, threshold: float, share: Share) -> str | None:
    """Compare with every added text; the first of the best ones above the threshold."""
    asked = grams(text)
    shares = [share(len(asked & grams(one)), len(asked), len(grams(one))) for one in added]
    best = max(shares)
    return str(shares.index(best)) if best > threshold else None


@given(TEXTS, THRESHOLDS, st.sampled_from([jaccard, containment]))
@settings(deadline=None)
def test_finds_what_comparing_with_everything_finds(texts: list[str], threshold: float, share: Share) -> None:
    ranks = GramRanks(texts)
    index = OverlapIndex(threshold, ranks.uses)
    for place, text in enumerate(texts):
        index.add(str(place), ranks.of(text))
    for text in texts:
        assert index.find(ranks.of(text), share) == find_slowly(texts, text, threshold, share)


@given(TEXTS, TEXTS)
@settings(deadline=None)
def test_which_grams_are_rare_changes_speed_alone(texts: list[str], others: list[str]) -> None:
    found = []
    for ranks in (GramRanks(texts), GramRanks(texts + others)):
        index = OverlapIndex(0.5, ranks.uses)
        for place, text in enumerate(texts):
            index.add(str(place), ranks.of(text))
        found.append([index.find(ranks.of(text), jaccard) for text in texts])
    assert found[0] == found[1]


def spelled(text: str) -> set[str]:
    """What the numbers stand for."""
    squeezed = "".join(text.casefold().split())
    return {squeezed[start : start + 3] for start in range(max(1, len(squeezed) - 2))}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("番茄炒蛋", {"番茄炒", "茄炒蛋"}),
        ("A b\nC d", {"abc", "bcd"}),
        ("你好", {"你好"}),
        ("嗯", {"嗯"}),
        ("", {""}),
    ],
)
def test_grams(text: str, expected: set[str]) -> None:
    assert spelled(text) == expected
    assert grams(text) == frozenset[int]().union(*map(grams, expected))


@given(st.text(st.characters(codec=None), max_size=9), st.text(st.characters(codec=None), max_size=9))
@settings(deadline=None)
def test_two_grams_have_one_number_only_where_they_are_the_same(one: str, other: str) -> None:
    """All planes of Unicode, texts of one or two characters, and lone surrogates, which JSON can spell."""
    assert len(grams(one)) == len(spelled(one))
    assert len(grams(one) & grams(other)) == len(spelled(one) & spelled(other))


def test_grams_are_counted_over_all_blocks_of_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["甲乙丙丁", "乙丙丁", "甲乙丙丁", "戊"]
    whole = GramRanks(texts)
    monkeypatch.setattr(overlap, "BLOCK", 1)
    parts = GramRanks(texts)
    assert whole.uses.tolist() == parts.uses.tolist() == [1, 2, 3]
    assert [parts.of(text).tolist() for text in texts] == [[1, 2], [2], [1, 2], [0]]


def test_an_index_holds_more_texts_than_it_began_with_room_for() -> None:
    texts = [f"{number:03d}" for number in range(100)]
    ranks = GramRanks(texts)
    index = OverlapIndex(0.5, ranks.uses)
    for text in texts:
        index.add(text, ranks.of(text))
    assert [index.find(ranks.of(text), jaccard) for text in texts] == texts


@given(st.integers(1, 50), st.integers(1, 50), st.data())
@settings(deadline=None)
def test_containment_is_never_below_jaccard(asked: int, added: int, data: st.DataObject) -> None:
    common = data.draw(st.integers(0, min(asked, added)))
    assert containment(common, asked, added) >= jaccard(common, asked, added)


def test_at_threshold_one_nothing_is_found() -> None:
    ranks = GramRanks(["同一句话"])
    index = OverlapIndex(1.0, ranks.uses)
    index.add("twin", ranks.of("同一句话"))
    assert index.find(ranks.of("同一句话"), jaccard) is None
