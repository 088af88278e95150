"""The vocabulary subset: closed under merges, exact on any text."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from potstill.problem import Problem
from potstill.vocab.map import VocabMap
from potstill.vocab.subset import choose_tokens, subset_tokenizer


@pytest.fixture(scope="module")
def source(tiny_tokenizer_dir: Path) -> dict:
    return json.loads((tiny_tokenizer_dir / "tokenizer.json").read_text())


@pytest.fixture(scope="module")
def student(source: dict) -> tuple[Tokenizer, list[int]]:
    kept = choose_tokens(source, Counter(), 320)
    return Tokenizer.from_str(json.dumps(subset_tokenizer(source, kept))), kept


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_round_trip_of_any_text_is_exact(student: tuple[Tokenizer, list[int]], text: str) -> None:
    tokenizer, _ = student
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_every_student_token_is_a_teacher_token_of_the_same_text(
    student: tuple[Tokenizer, list[int]], source: dict, text: str
) -> None:
    tokenizer, kept = student
    names = {index: token for token, index in source["model"]["vocab"].items()}
    encoding = tokenizer.encode(text)
    for index, token in zip(encoding.ids, encoding.tokens, strict=True):
        assert names.get(kept[index], token) == token


def test_everything_kept_is_the_same_tokenizer(source: dict) -> None:
    total = len({*source["model"]["vocab"].values(), *(token["id"] for token in source["added_tokens"])})
    kept = choose_tokens(source, Counter(), total)
    assert kept == list(range(total))
    again = subset_tokenizer(source, kept)
    assert again["model"]["vocab"] == source["model"]["vocab"]
    assert [tuple(m) for m in again["model"]["merges"]] == [tuple(m) for m in source["model"]["merges"]]


def test_tokens_around_a_text_keep_their_meaning(source: dict) -> None:
    names = {token["content"]: token["id"] for token in source["added_tokens"]}
    begin = next(iter(names))
    around = {"id": begin, "ids": [names[begin]], "tokens": [begin]}
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {begin: around},
    }
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    beginning = {**source, "post_processor": {"type": "Sequence", "processors": [level, template]}}
    smaller = subset_tokenizer(beginning, choose_tokens(beginning, Counter(), 320))
    found = Tokenizer.from_str(json.dumps(smaller)).encode("a")
    assert (found.tokens[0], found.ids[0]) == (begin, smaller["added_tokens"][0]["id"]) and found.ids[0] < 320


def test_a_used_token_brings_its_merge_path(source: dict) -> None:
    merges = [tuple(merge) for merge in source["model"]["merges"]]
    vocabulary = source["model"]["vocab"]
    deep = next("".join(m) for m in reversed(merges) if len("".join(m)) >= 4 and len(m[0]) > 1)
    kept = choose_tokens(source, Counter({vocabulary[deep]: 9}), 280)
    closed = set(kept)
    assert vocabulary[deep] in closed
    by_result = {vocabulary["".join(pair)]: [vocabulary[part] for part in pair] for pair in merges}
    for token in kept:
        assert set(by_result.get(token, [])) <= closed


def test_often_used_tokens_win(source: dict) -> None:
    vocabulary = source["model"]["vocab"]
    pairs = [tuple(merge) for merge in source["model"]["merges"]]
    rare = [vocabulary["".join(pair)] for pair in pairs if all(len(part) == 1 for part in pair)][-3:]
    kept = choose_tokens(source, Counter(dict.fromkeys(rare, 5)), 262)
    assert set(rare) <= set(kept)


def test_sizes_that_cannot_be_are_refused(source: dict) -> None:
    with pytest.raises(Problem, match="cannot hold"):
        choose_tokens(source, Counter(), 100)
    with pytest.raises(Problem, match="the teacher has"):
        choose_tokens(source, Counter(), 100_000)


def test_bytes_that_the_teacher_lacks_are_nobodys(source: dict) -> None:
    """SmolLM2 has no token for 21 of the 256 bytes."""
    lacking = {**source, "model": {**source["model"], "vocab": dict(source["model"]["vocab"])}}
    missing = [byte for byte in sorted(ByteLevel.alphabet()) if byte in lacking["model"]["vocab"]][-21:]
    for byte in missing:
        del lacking["model"]["vocab"][byte]
    lacking["model"]["merges"] = [
        pair
        for pair in source["model"]["merges"]
        if not set(missing) & set("".join(pair if isinstance(pair, list | tuple) else pair.split()))
    ]
    assert len(choose_tokens(lacking, Counter(), 262)) == 262
    for byte in sorted(ByteLevel.alphabet())[:20]:
        lacking["model"]["vocab"].pop(byte, None)
    with pytest.raises(Problem, match="byte-level"):
        choose_tokens(lacking, Counter(), 262)


def test_map_survives_the_disk(tmp_path: Path) -> None:
    vocabulary = VocabMap.from_kept([3, 5, 9])
    vocabulary.save(tmp_path / "map.safetensors")
    assert VocabMap.load(tmp_path / "map.safetensors").teacher_ids.tolist() == [3, 5, 9]
    (tmp_path / "map.safetensors").write_bytes(b"nonsense")
    with pytest.raises(Problem, match="vocabulary map"):
        VocabMap.load(tmp_path / "map.safetensors")
